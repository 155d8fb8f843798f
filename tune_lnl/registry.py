"""Registered names and their classes: the built-in ones, and those that installed packages add by entry point.

Listing the names imports nothing. The class of a name is imported when it is looked up, so that a broken package breaks
only its own names. Two packages that register the same name are both refused.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from tune_lnl.errors import InputError, first_line, nearest

BUILT_IN = "tune_lnl"


@dataclass(frozen=True)
class Registered:
    """A built-in name's classes, each as ``module:attribute``.

    Attributes:
        implementation: what trains or loads.
        settings: its settings class; None: an attribute of the implementation, which is imported to find it.
    """

    implementation: str
    settings: str | None = None


@dataclass(frozen=True)
class Provider:
    """A package that registers a name.

    Attributes:
        location: ``module:attribute`` of its class.
        package: name and version of the installed package, or ``tune_lnl``.
    """

    location: str
    package: str


@dataclass(frozen=True)
class Names:
    """The names of one kind.

    Attributes:
        kind: the word for them in messages, e.g. "method".
        group: the entry point group that packages add to.
        built_in: the names of this package.
    """

    kind: str
    group: str
    built_in: Mapping[str, Registered]

    def all(self) -> list[str]:
        """Return all names, sorted. Import nothing."""
        return sorted({*self.built_in, *(name for name, _ in _installed(self.group, tuple(sys.path)))})

    def providers(self, name: str) -> list[Provider]:
        """Return the providers of a name; the built-in one first."""
        own = [Provider(self.built_in[name].implementation, BUILT_IN)] if name in self.built_in else []
        return own + [provider for provided, provider in _installed(self.group, tuple(sys.path)) if provided == name]

    def load(self, name: str) -> object:
        """Import and return what the name stands for.

        Raises:
            InputError: no package registers the name (with the nearest one), more than one do, or its package
                cannot be imported.
        """
        provider = self._only(name)
        try:
            return _imported(provider.location)
        except Exception as error:
            if provider.package == BUILT_IN:
                raise
            # Importing another package's module can raise anything.
            reason = first_line(error)
            raise self.unusable(name, f"cannot be imported: {type(error).__name__}: {reason}") from error

    def load_settings(self, name: str, attribute: str) -> object:
        """Import and return the settings class of a name.

        Args:
            name: as for :meth:`load`.
            attribute: where the implementation keeps its settings class. It is imported only if no settings class is
                registered beside it.

        Returns:
            None where there is no such attribute.

        Raises:
            InputError: as :meth:`load`.
        """
        if self._only(name).package == BUILT_IN:
            settings = self.built_in[name].settings
            if settings is not None:
                return _imported(settings)
        return getattr(self.load(name), attribute, None)

    def _only(self, name: str) -> Provider:
        providers = self.providers(name)
        if not providers:
            raise InputError(f"unknown {self.kind} {name!r}; {nearest(name, self.all())}")
        if len(providers) > 1:
            raise InputError(
                f"{self.kind} {name!r} is registered more than once, by {' and by '.join(map(_described, providers))}\n"
                "uninstall one of the packages, or ask its author for another name"
            )
        return providers[0]

    def unusable(self, name: str, what: str) -> InputError:
        """Return the error for a package whose ``name`` cannot be used."""
        return InputError(
            f"{self.kind} {name!r} of {_described(self.providers(name)[0])} {what}\n"
            "repair or uninstall the package that provides it"
        )


def _imported(location: str) -> object:
    module, _, attribute = location.partition(":")
    found: object = import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def _described(provider: Provider) -> str:
    return f"{provider.package} ({provider.location})"


@cache
def _installed(group: str, _path: tuple[str, ...]) -> tuple[tuple[str, Provider], ...]:
    """Return every (name, provider) of installed packages, sorted.

    Cached: collecting takes milliseconds, and a search looks names up often.
    """
    # The same package can be found twice, for example as an editable installation in a folder of the path.
    found = {
        (point.name, Provider(point.value.replace(" ", ""), _package(point))) for point in entry_points(group=group)
    }
    return tuple(sorted(found, key=lambda pair: (pair[0], pair[1].package, pair[1].location)))


def _package(point: EntryPoint) -> str:
    return "an installed package" if point.dist is None else f"{point.dist.name} {point.dist.version}"
