"use strict";
// The person's decisions on proposed corrections: by key or click, saved in the browser and as a CSV.
(() => {
  const { key, file, numbers, names, rows, changed } = JSON.parse(document.getElementById("labels").textContent);
  const cards = Array.from(document.querySelectorAll("li[data-row]"));
  const progress = document.getElementById("decided"), others = document.getElementById("others");
  const place = `tune_lnl labels ${location.pathname}`;
  let decided = {};
  try {
    decided = JSON.parse(localStorage.getItem(place) || "{}");
  } catch {
    // The browser keeps nothing for this page: decisions last until it is closed.
  }

  function show() {
    for (const card of cards) {
      const answer = decided[card.dataset.row];
      for (const button of card.querySelectorAll("button")) {
        button.setAttribute("aria-pressed", String(button.dataset.label === String(answer)));
      }
    }
    const count = cards.filter((card) => card.dataset.row in decided).length;
    progress.textContent = `${count} of ${cards.length} decided`;
  }

  function decide(card, button) {
    decided[card.dataset.row] = Number(button.dataset.label);
    try {
      localStorage.setItem(place, JSON.stringify(decided));
    } catch {
      // As above.
    }
    show();
  }

  function next(card, step) {
    const at = cards.indexOf(card) + step;
    if (cards[at]) cards[at].focus();
  }

  for (const card of cards) {
    for (const button of card.querySelectorAll("button")) {
      button.addEventListener("click", () => decide(card, button));
    }
    card.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const button = card.querySelector(`button[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
      if (button) {
        decide(card, button);
        next(card, 1);
      } else if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
        next(card, event.key === "ArrowRight" ? 1 : -1);
      } else {
        return;
      }
      event.preventDefault();
    });
  }

  // A spreadsheet runs a cell that begins with one of these signs.
  const cell = (text) => {
    const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };

  function table() {
    const lines = [`${key},label`];
    rows.forEach(([name, given], row) => {
      const label = decided[row] ?? (others.checked && row in changed ? changed[row] : given);
      lines.push(`${cell(String(name))},${numbers ? label : cell(names[label])}`);
    });
    return `${lines.join("\n")}\n`;
  }

  document.getElementById("save").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
    link.download = file;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  show();
})();
