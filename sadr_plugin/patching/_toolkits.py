"""Attach the imported toolkits: stand-ins for their functions, patches of their hparams classes."""

from __future__ import annotations

import contextlib
import itertools
import sys
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from types import FunctionType, ModuleType
from typing import Any

from .._signatures import signature_of
from ..adapter import EditPoint
from ..errors import AttachmentError
from ..plugins import edit_points, editor_names, plugin_manager
from ._functions import (
    Dispatch,
    cache_arguments,
    refuse_missing_arguments,
    refuse_other_loop,
    run_with_penalty,
    run_without_cache,
)
from ._hparams_class import HparamsPatch, Obstacle, drops_flag
from ._names import Name
from ._stand_in import Call, StandIn, function_of
from ._strangers import is_declared_one, keeps_no_files

NOT_ENABLED = (
    "sadr: these hparams ask for SADR, which is not enabled here; call sadr_plugin.enable(), or "
    "use hparams without the flag (hparams.sadr = False)"
)


class Toolkits:
    """The declared functions and hparams classes of the toolkits that are imported.

    Args:
        is_active: whether SADR is enabled. If it is not, what is attached refuses hparams with a
            flag, and passes everything else on.
        ask: what a patched class asks when a flag is set. It has to answer what `obstacle` answers.
    """

    def __init__(self, is_active: Callable[[], bool], ask: Obstacle) -> None:
        self._is_active = is_active
        self._ask = ask
        self._points: list[EditPoint] = []
        self._belonging: set[str] = set()
        self._packages: set[str] = set()
        self._places: dict[str, set[tuple[str, str]]] = {}
        self._patches: dict[type, HparamsPatch] = {}
        self._obstacles: dict[str, str] = {}
        self._warned: set[str] = set()

    def modules(self) -> set[str]:
        """Return the modules to watch: those whose code makes functions and classes to attach."""
        points = edit_points()
        bases = [Name.parse(base) for base in plugin_manager().hook.sadr_hparams_base()]
        names = [Name.parse(t) for p in points for t in (p.function, p.hparams, *p.caches)]
        # All hparams classes exist only once the whole toolkit is imported.
        return {name.module for name in (*names, *bases)} | {base.toolkit for base in bases}

    def attach(self, just_now: ModuleType | None = None) -> None:
        """Attach whatever is imported and is not attached, or not any more.

        If an adapter does not fit its toolkit, the toolkit still works: a class that cannot have
        the flag refuses it, and so does a function that cannot run with SADR.

        Args:
            just_now: a module whose import is known to be complete, even if its spec says
                otherwise.
        """
        self._points = edit_points()
        editors: dict[str, list[EditPoint]] = {}
        for point in self._points:
            editors.setdefault(point.hparams, []).append(point)
        calls, obstacles = _Calls(), {}
        for hparams, points in editors.items():
            if self._belongs(hparams, points, just_now):
                obstacle = self._look_at(hparams, points, calls, just_now)
                if obstacle is not None:
                    obstacles[hparams] = obstacle
        self._obstacles = obstacles
        self._packages |= calls.packages
        for module, name, value in _globals(self._packages):
            if type(value) is FunctionType:
                target = calls.target_of(value)
                if target is not None:
                    setattr(module, name, calls.stand_in(target, value))
                    self._places.setdefault(target, set()).add((module.__name__, name))
            elif issubclass(type(value), type) and _name_of(value) in self._belonging:
                with contextlib.suppress(TypeError):  # it cannot be changed
                    self._patch_all(value)  # the class of before a reload
        for base in plugin_manager().hook.sadr_hparams_base():
            self._look_at_base(base, just_now)

    def detach(self) -> None:
        """Give the toolkits their own functions and classes back."""
        for module, name, value in _globals(self._packages):
            if type(value) is StandIn:
                setattr(module, name, value.__wrapped__)
        for patch in self._patches.values():
            patch.undo()
        for kept in (self._belonging, self._packages, self._places, self._patches):
            kept.clear()
        self._points, self._obstacles = [], {}

    def is_attached(self, point: EditPoint) -> bool:
        """Whether an edit of this editor has SADR if its hparams ask for it."""
        if not isinstance(_held(point.function), StandIn) or self.refusal(point) is not None:
            return False
        misfits: list[str] = []
        held = self._held_functions(point)
        for function in held:
            with _noting(misfits):
                refuse_other_loop(point, function_of(function))
        return not misfits and all(type(function) is StandIn for function in held)

    def refusal(self, point: EditPoint) -> str | None:
        """Return why edits of this editor cannot have SADR now. None if they can."""
        if not self._is_active():
            return NOT_ENABLED
        obstacle = self._obstacles.get(point.hparams)
        return None if obstacle is None else f"sadr: not attached to {obstacle}"

    def have_lost(self, hparams: type) -> bool:
        """Whether a function for this class was attached, and others have replaced it."""
        points = self._points_of(hparams)
        held = itertools.chain.from_iterable(map(self._held_functions, points))
        return any(type(function) is FunctionType for function in held)

    def obstacle(self, hparams: type) -> str | None:
        """Return why objects of an hparams class cannot have the flag now. None if they can.

        If they can, the class is patched, and the patch is whole.
        """
        if not self._is_active():
            return NOT_ENABLED
        points = self._points_of(hparams)
        if not points:
            return (
                f"sadr: no editor is attached for {hparams.__name__}; SADR works with "
                f"{editor_names()}. Remove the key"
            )
        self._patch(hparams)
        return next(filter(None, map(self.refusal, points)), None)

    def _points_of(self, hparams: type) -> list[EditPoint]:
        """Return the editors for which this class is, or a base class of it."""
        names = {_name_of(cls) for cls in hparams.__mro__}
        return [
            point
            for point in self._points
            if point.hparams in names or _held(point.hparams) in hparams.__mro__
        ]

    def _held_functions(self, point: EditPoint) -> list[Any]:
        """Return what is now where an editor's function is, and where it was attached."""
        return [
            f for f in (_held(point.function), *self._at_places(point.function)) if _is_function(f)
        ]

    def _at_places(self, target: str) -> list[Any]:
        """Return what is now in the places where a function was attached."""
        places = self._places.get(target, ())
        return [getattr(sys.modules.get(module), name, None) for module, name in places]

    def _functions(self, target: str, function: FunctionType | None) -> list[FunctionType]:
        """Return a toolkit's own function, and those that a user has put in its place."""
        if function is None:
            return []
        return [
            function,
            *(value for value in self._at_places(target) if type(value) is FunctionType),
        ]

    def _belongs(
        self, hparams: str, points: Sequence[EditPoint], just_now: ModuleType | None
    ) -> bool:
        """Whether what is imported under these names is the declared toolkit.

        If it is, a reload that changes its functions does not make it another project's.
        """
        if any(p.parameters is None or is_declared_one(p, just_now) for p in points):
            self._belonging.add(hparams)
        return hparams in self._belonging

    def _look_at(
        self, hparams: str, points: Sequence[EditPoint], calls: _Calls, just_now: ModuleType | None
    ) -> str | None:
        """Note what is called in the place of an editor's functions, and patch its class.

        Returns:
            Why the class cannot have the flag: something declared is missing, or no function fits.
            None if it can.
        """
        faults: list[str] = []
        misfits: list[str] = []
        with _noting(faults):
            self._look_at_class(hparams, points, just_now)
        for point in points:
            loop = None
            with _noting(faults):
                loop = _function(point, point.function, just_now)
                call = Dispatch(point, point.function, run_with_penalty, self.refusal)
                calls.add(point.function, self._functions(point.function, loop), call)
            with _noting(misfits):
                if loop is not None:
                    refuse_other_loop(point, loop)
            for target in point.caches:
                with _noting(faults):
                    cache = _cache_function(point, target, just_now)
                    call = Dispatch(point, target, run_without_cache, self.refusal)
                    calls.add(target, self._functions(target, cache), call)
        for reason in (*faults, *misfits):
            self._warn(f"SADR is not attached to {reason}")
        if len(misfits) == len(points):
            faults += misfits
        return faults[0] if faults else None

    def _look_at_class(
        self, hparams: str, points: Sequence[EditPoint], just_now: ModuleType | None
    ) -> None:
        """Patch an editor's hparams class, if it is imported.

        Raises:
            AttachmentError: it cannot take the flag, or the flag could have no effect.
        """
        editor, name = points[0].editor, Name.parse(hparams)
        if name.home(just_now) is None:
            return
        held = name.imported(just_now)
        if not isinstance(held, type):
            raise AttachmentError(f"{editor}: there is no class {hparams}")
        try:
            self._patch_all(held)
        except TypeError as error:
            raise AttachmentError(
                f"{editor}: {held.__name__} cannot take the flag; use a class of your own"
            ) from error
        if drops_flag(held):
            raise AttachmentError(
                f"{editor}: {held.__name__} is a pydantic model without an __init__ of its own, "
                "and pydantic drops the flag; use a dataclass"
            )
        for module in {Name.parse(point.function).module for point in points}:
            if module not in sys.modules and not _exists(module):
                raise AttachmentError(f"{editor}: there is no module {module} for its function")

    def _look_at_base(self, base: str, just_now: ModuleType | None) -> None:
        """Patch a toolkit's hparams classes that belong to no editor, so that they refuse the flag.

        The patch of the base class covers subclasses that are defined later.
        """
        name = Name.parse(base)
        if name.home(just_now) is None:
            return
        held = name.imported(just_now)
        if not isinstance(held, type):
            self._warn(f"SADR: there is no class {base}")
            return
        with contextlib.suppress(TypeError):  # it cannot be changed, and takes no flag by itself
            self._patch_all(held)

    def _patch_all(self, hparams: type) -> None:
        """Patch a class and its subclasses."""
        self._patch(hparams)
        subclasses: list[type] = hparams.__subclasses__()
        for subclass in subclasses:
            self._patch_all(subclass)

    def _patch(self, hparams: type) -> None:
        if hparams in self._patches:
            self._patches[hparams].renew()
        else:
            self._patches[hparams] = HparamsPatch(hparams, self._ask)

    def _warn(self, message: str) -> None:
        """Warn once, and only where a user wants SADR."""
        if message not in self._warned and self._is_active():
            self._warned.add(message)
            warnings.warn(message, stacklevel=2)


class _Calls:
    """What is to be called in the place of which functions.

    A function is also known by its name, because a module may hold the one of before a reload.
    """

    def __init__(self) -> None:
        self.packages: set[str] = set()
        self._calls: dict[str, Call] = {}
        self._targets: dict[int, str] = {}
        self._made: dict[int, StandIn] = {}

    def add(self, target: str, functions: Iterable[FunctionType], call: Call) -> None:
        """Add what is called in the place of a declared function, wherever there is one."""
        self.packages.add(Name.parse(target).toolkit)
        for function in functions:
            self._calls.setdefault(target, call)
            self._targets.setdefault(id(function), target)

    def target_of(self, function: FunctionType) -> str | None:
        """Return which declared function this is. None if it is none that was added."""
        target = self._targets.get(id(function)) or _name_of(function)
        return target if target in self._calls else None

    def stand_in(self, target: str, function: FunctionType) -> StandIn:
        """Return the one stand-in for a function."""
        if id(function) not in self._made:
            self._made[id(function)] = StandIn(function, self._calls[target])
        return self._made[id(function)]


@contextlib.contextmanager
def _noting(faults: list[str]) -> Iterator[None]:
    """Add the message of an AttachmentError to a list."""
    try:
        yield
    except AttachmentError as error:
        faults.append(str(error))


def _function(point: EditPoint, target: str, just_now: ModuleType | None) -> FunctionType | None:
    """Return the toolkit's own function of this name. None if its module is not imported.

    Raises:
        AttachmentError: the module has no such function.
    """
    name = Name.parse(target)
    if name.home(just_now) is None:
        return None
    function = function_of(name.imported(just_now))
    if not isinstance(function, FunctionType):
        raise AttachmentError(
            f"{point.editor}: {target} is not a function of a module in the installed toolkit; "
            "correct the adapter's declaration, or install the version that it is made for"
        )
    return function


def _cache_function(
    point: EditPoint, target: str, just_now: ModuleType | None
) -> FunctionType | None:
    """Return the function that keeps vectors in files. None if there is nothing to be done.

    Raises:
        AttachmentError: the module has no such function, or it lacks an argument.
    """
    function = _function(point, target, just_now)
    if function is None:
        return None
    takes = list(signature_of(function).parameters)
    if keeps_no_files(point, takes):
        return None
    refuse_missing_arguments(f"{point.editor}: {target}", cache_arguments(point), takes)
    return function


def _held(target: str) -> Any:
    """Return what a module has under a name; None if there is nothing, or no such module yet."""
    return Name.parse(target).imported()


def _is_function(value: Any) -> bool:
    return isinstance(value, FunctionType)  # a stand-in, too


def _name_of(value: Any) -> str:
    """Return the name of a function or a class, as it would be declared."""
    return f"{value.__module__}:{value.__qualname__}"


def _globals(packages: Container[str]) -> Iterator[tuple[ModuleType, str, Any]]:
    """Yield the globals of all imported modules of some packages: module, name, value."""
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] in packages and isinstance(module, ModuleType):
            for name, value in list(vars(module).items()):
                yield module, name, value


def _exists(module: str) -> bool:
    try:
        return Name(module, "").exists()
    except ValueError:  # a toolkit without files, made in memory
        return True
