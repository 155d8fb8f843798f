"use strict";
(() => {
  const all = (selector, root) => Array.from((root || document).querySelectorAll(selector));
  const made = (name, attributes, ...children) => {
    const element = Object.assign(document.createElement(name), attributes);
    element.append(...children);
    return element;
  };

  // ---- pictures: drawn for a light page, with colours exchanged where the reader's system is dark

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const config = {
    displaylogo: false,
    showTips: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "sendChartToCloud"],
    plotlyServerURL: "",
  };
  const NARROW = 600;
  const PAPER = 680; // pixels of a printed page
  let palette = {};
  let printing = false;

  function themed(value, key) {
    if (typeof value === "string") return /color/.test(key) && palette[value] ? palette[value] : value;
    if (Array.isArray(value)) return /^(x|y|z|text|customdata|values|ticktext)$/.test(key) ? value : value.map((one) => themed(one, key));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, themed(inner, name)]));
  }

  function spec(plot) {
    const data = plot.closest("figure").querySelector(".plot-data").textContent;
    const figure = JSON.parse(data);
    if (dark.matches && !printing) figure.data = figure.data.map((trace) => themed(trace, ""));
    if (dark.matches && !printing) figure.layout = themed(figure.layout, "");
    // On a phone the legend takes as much room as the picture.
    if (plot.clientWidth < NARROW) figure.layout.height = Math.round(figure.layout.height * 1.25);
    return figure;
  }

  function webgl() {
    try {
      return Boolean(document.createElement("canvas").getContext("webgl"));
    } catch {
      return false;
    }
  }

  function draw(plot) {
    const figure = spec(plot);
    const lines = figure.data.some((trace) => trace.type === "parcoords");
    if (lines && !plot.dataset.drawn && !webgl()) {
      plot.style.height = "auto";
      plot.replaceChildren(made("p", { className: "note" }, "This browser has no WebGL to draw the lines with; the table holds their numbers."));
      plot.dataset.drawn = "without";
      return undefined;
    }
    if (plot.dataset.drawn === "without") return undefined;
    // WebGL does not draw again before the page is printed: such a picture is made smaller as a whole.
    plot.style.zoom = "";
    const width = plot.clientWidth;
    if (printing) figure.layout.width = lines ? width : PAPER;
    if (printing && lines) plot.style.zoom = Math.min(1, PAPER / width);
    plot.dataset.drawn = "yes";
    plot.style.height = `${figure.layout.height}px`;
    return Plotly.react(plot, figure.data, figure.layout, config);
  }

  const plots = [];
  const later = (plot) => plot.closest("figure").querySelector(".plot-data").textContent.includes('"type":"parcoords"');

  async function drawAll() {
    palette = JSON.parse(document.getElementById("palette").textContent);
    const watcher = new IntersectionObserver(
      (entries) => {
        for (const entry of entries) {
          if (entry.isIntersecting && !entry.target.dataset.drawn) draw(entry.target);
        }
      },
      { rootMargin: "300px" },
    );
    // Also where the window stays as it is: a scroll bar that comes or goes changes the columns.
    const sizes = new ResizeObserver((entries) => {
      for (const { target, contentRect } of entries) {
        const drawn = !printing && target.dataset.drawn === "yes" && target._fullLayout;
        if (drawn && contentRect.width && Math.abs(contentRect.width - drawn.width) > 2) Plotly.Plots.resize(target);
      }
    });
    for (const plot of plots) {
      sizes.observe(plot);
      // WebGL starts slowly: such a picture is drawn when it comes into sight.
      if (later(plot)) watcher.observe(plot);
      else await draw(plot);
      await new Promise((resolve) => setTimeout(resolve, 0));
    }
    document.documentElement.dataset.drawn = "yes";
  }

  const again = () => plots.filter((plot) => plot.dataset.drawn).forEach(draw);
  dark.addEventListener("change", again);
  addEventListener("beforeprint", () => {
    printing = true;
    plots.forEach(draw);
  });
  addEventListener("afterprint", () => {
    printing = false;
    again();
  });

  // ---- copying

  function copy(text) {
    const old = () => {
      const area = made("textarea", { value: text, readOnly: true });
      area.style.position = "fixed";
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      return done ? Promise.resolve() : Promise.reject(new Error("not copied"));
    };
    return navigator.clipboard ? navigator.clipboard.writeText(text).catch(old) : old();
  }

  function copyButtons() {
    for (const button of all("button.copy")) {
      const label = button.firstChild;
      button.hidden = false;
      button.addEventListener("click", () => {
        const text = button.parentElement.querySelector("code").textContent;
        copy(text).then(
          () => (label.data = "Copied"),
          () => (label.data = "Select it and press Ctrl-C"),
        );
        setTimeout(() => (label.data = "Copy"), 2000);
      });
    }
  }

  // ---- tables: sorted by a click on a heading

  const cellText = (row, column) => row.cells[column].textContent.trim();
  const asNumber = (text) => {
    const found = /^[-+]?[\d.,]+(e[-+]?\d+)?/.exec(text);
    return found ? Number(found[0].replaceAll(",", "")) : NaN;
  };

  function compare(one, other) {
    const [a, b] = [asNumber(one), asNumber(other)];
    if (!Number.isNaN(a) && !Number.isNaN(b)) return a - b;
    if (Number.isNaN(a) !== Number.isNaN(b)) return Number.isNaN(a) ? 1 : -1;
    return one.localeCompare(other, undefined, { numeric: true });
  }

  function sortable(table) {
    all("thead th", table).forEach((heading, column) => {
      const button = made("button", { type: "button", className: "sort" }, ...heading.childNodes);
      heading.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = heading.getAttribute("aria-sort") === "ascending";
        all("thead th", table).forEach((one) => one.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", down ? "descending" : "ascending");
        const missing = (row) => cellText(row, column) === "–";
        const rows = Array.from(table.tBodies[0].rows).sort((one, other) => {
          // What is not known stays at the end, whichever way it is sorted.
          if (missing(one) || missing(other)) return missing(one) - missing(other);
          return (down ? -1 : 1) * compare(cellText(one, column), cellText(other, column));
        });
        table.tBodies[0].append(...rows);
      });
    });
  }

  // ---- the trials: filtered, and two of them compared

  const headings = (table) => all("thead th", table).map((one) => one.textContent.trim());
  const OPERATORS = { "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b, "=": (a, b) => a === b };

  function matcher(text, names) {
    const asked = /^\s*(.+?)\s*(<=|>=|<|>|=)\s*(\S+)\s*$/.exec(text);
    const column = asked ? names.findIndex((name) => name.toLowerCase() === asked[1].toLowerCase()) : -1;
    if (column < 0) {
      const words = text.toLowerCase().split(/\s+/).filter(Boolean);
      return (row) => words.every((word) => row.textContent.toLowerCase().includes(word));
    }
    const limit = Number(asked[3]);
    if (Number.isNaN(limit)) return (row) => cellText(row, column).toLowerCase() === asked[3].toLowerCase();
    return (row) => OPERATORS[asked[2]](asNumber(cellText(row, column)), limit);
  }

  function filterForm(form) {
    const table = document.getElementById(form.dataset.table);
    const rows = Array.from(table.tBodies[0].rows);
    const names = headings(table);
    for (const state of new Set(rows.map((row) => cellText(row, 1)))) form.elements.state.append(made("option", {}, state));
    const apply = () => {
      const [matches, state] = [matcher(form.elements.text.value, names), form.elements.state.value];
      for (const row of rows) row.hidden = !(matches(row) && (state === "" || cellText(row, 1) === state));
      const shown = rows.filter((row) => !row.hidden).length;
      form.querySelector("[role=status]").textContent = shown === rows.length ? `${rows.length} trials` : `${shown} of ${rows.length} trials`;
    };
    for (const event of ["input", "change"]) form.addEventListener(event, apply);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.hidden = rows.length < 2;
    apply();
  }

  function diffForm(form) {
    const table = document.getElementById(form.dataset.table);
    const rows = Array.from(table.tBodies[0].rows);
    const names = headings(table);
    const numbers = rows.map((row) => cellText(row, 0));
    const { one, other } = form.elements;
    for (const select of [one, other]) {
      select.append(...rows.map((row, index) => made("option", { value: numbers[index] }, `${numbers[index]}: ${cellText(row, 1)} ${cellText(row, 2)}`)));
    }
    if (numbers.includes(form.dataset.best)) one.value = form.dataset.best;
    other.value = numbers.includes(form.dataset.start) && form.dataset.start !== one.value ? form.dataset.start : numbers.find((number) => number !== one.value);
    const [head, body] = [form.querySelector("thead"), form.querySelector("tbody")];
    const heading = (text) => made("th", { scope: "col" }, text);
    const apply = () => {
      const [a, b] = [one.value, other.value].map((number) => rows[numbers.indexOf(number)]);
      if (!a || !b) return;
      head.replaceChildren(made("tr", {}, heading("what differs"), heading(`trial ${one.value}`), heading(`trial ${other.value}`)));
      const different = names.map((name, column) => [name, cellText(a, column), cellText(b, column)]).filter(([, left, right], column) => column && left !== right);
      const lines = different.map(([name, left, right]) => made("tr", {}, made("th", { scope: "row" }, name), made("td", {}, left), made("td", {}, right)));
      body.replaceChildren(...(lines.length ? lines : [made("tr", {}, made("th", { scope: "row" }, "nothing"), made("td", {}, "–"), made("td", {}, "–"))]));
    };
    for (const event of ["input", "change"]) form.addEventListener(event, apply);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.hidden = rows.length < 2;
    apply();
  }

  document.addEventListener("DOMContentLoaded", () => {
    copyButtons();
    all("form.filter").forEach(filterForm);
    all("form.diff").forEach(diffForm);
    all("table.sortable").forEach(sortable);
    plots.push(...all(".plot"));
    if (plots.length) drawAll();
    else document.documentElement.dataset.drawn = "yes";
  });
})();
