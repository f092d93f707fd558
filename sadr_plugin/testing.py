"""The conformance kit: tests with which an adapter's author checks the adapter.

Subclass `EditorConformance` in a test module and say how to run the editor. pytest does the rest:

    from sadr_plugin.testing import EditorConformance

    class TestMyEditor(EditorConformance):
        point = MY_EDIT_POINT

        def new_model(self):
            return build_a_small_model()          # the same weights every time

        def hparams(self, **flag):
            return MyHparams(steps=6, **flag)     # flag is empty or holds `sadr`

        def run(self, model, hparams):
            return my_toolkit.optimise(model, tokenizer, request, hparams)

The editor needs about five steps and a learning rate at which attention drifts. ``run`` has to call
the toolkit's function through its module, as the toolkit does. A name that was imported earlier
does not work, because SADR replaces the function only in the toolkit's modules.
"""

from __future__ import annotations

import copy
import importlib
import threading
from typing import Any

import torch
from torch import Tensor, nn

from ._comparisons import assert_equal, edited_tokens, own_attributes, selected_share, tensors_in
from ._witnesses import NO_EDIT, Aim, Echo, Start, Witness, registered, witnessing
from .adapter import EditPoint
from .errors import ConfigError, UnsupportedLoopError
from .events import Report
from .patching._attaching import attached, disable, enable
from .plugins import plugin_manager

__all__ = [
    "REPLAY_TOLERANCE",
    "REUSE_TOLERANCE",
    "EditorConformance",
    "Witness",
    "assert_equal",
    "own_attributes",
    "registered",
    "tensors_in",
    "witnessing",
]

REUSE_TOLERANCE = 1e-5
"""The largest relative difference allowed between the vectors of an edit with reuse and without.

For float32. The difference comes from the last bits of some sums, and from what an optimiser makes
of them.
"""


REPLAY_TOLERANCE = 1e-3
"""The largest error allowed in the log-probabilities of a replayed prompt, in nats, for float32."""

BASELINE_TOLERANCE = 1e-4
"""The largest error allowed in an attention weight of the baseline, for float32."""

SAME_AIM = 0.8
"""The smallest cosine between the gradients of the loss and of the target.

It is 1 if the loss is the target's negative log-probability at the first step. With another target
it is rarely above 0.6.
"""

NO_PENALTY = (
    "no step had a penalty: too few steps, too small a learning rate, or too little drift to test "
    "with"
)


class EditorConformance:
    """Checks that an adapter attaches SADR to an editor correctly, without other changes.

    Attributes:
        point: the editor's declaration.
        adapter: the plugin that declares it. The tests register it. None if the adapter is
            installed with an entry point.
        gamma: a weight at which the penalty has a visible effect.
        reuse: the ``reuse`` setting of all checks; see `sadr_plugin.SadrConfig.reuse`.
    """

    point: EditPoint
    adapter: object = None
    gamma: float = 2.0
    reuse: bool = True

    def new_model(self) -> nn.Module:
        """Return a small model, with the same weights every time."""
        raise NotImplementedError

    def hparams(self, **flag: Any) -> Any:
        """Return new hparams. ``flag`` is empty or holds ``sadr``."""
        raise NotImplementedError

    def run(self, model: nn.Module, hparams: Any) -> Any:
        """Run the toolkit's function on ``model``. Return its result: tensors in any nesting."""
        raise NotImplementedError

    def setup_method(self) -> None:
        """Enable SADR. The toolkit has to be imported already."""
        if self.adapter is not None:
            plugin_manager().register(self.adapter)
        try:
            enable()
            assert self.point in attached(), (
                f"{self.point.editor} is not attached: register its adapter and import the toolkit"
            )
        except BaseException:
            # pytest runs no teardown after a setup that failed.
            EditorConformance.teardown_method(self)
            raise

    def teardown_method(self) -> None:
        """Disable SADR again."""
        disable()
        if self.adapter is not None:
            plugin_manager().unregister(self.adapter)

    def test_off_is_bit_identical(self) -> None:
        """Without the flag, or with ``sadr: false``, the result is the toolkit's, bit by bit."""
        disable()
        alone = self._run()
        enable()
        assert_equal(self._run(), alone, "without a flag, SADR enabled changes the result")
        assert_equal(self._run(sadr=False), alone, "sadr=False changes the result")

    def test_gamma_0_is_bit_identical(self) -> None:
        """With γ = 0 the result does not change. Reuse changes only the rounding of sums."""
        alone = self._run()
        with witnessing() as witness:
            full = self._run(sadr={"gamma": 0, "reuse": False})
            assert_equal(full, alone, "gamma 0 changes the result")
            found = self._run(sadr={"gamma": 0})
            assert_equal(found, alone, "reuse changes the result", REUSE_TOLERANCE)
        assert witness.reports, NO_EDIT

    def test_reuse_changes_nothing(self) -> None:
        """Forwards that run in part give the result of full forwards, within a tolerance."""
        full = self._run(sadr={"gamma": self.gamma, "reuse": False})
        found = self._run(sadr={"gamma": self.gamma})
        assert_equal(found, full, "reuse changes the result", REUSE_TOLERANCE)

    def test_baseline_is_the_unedited_model(self) -> None:
        """The drift is measured from the attention of the model without the vector."""
        with registered(Start()) as start:
            try:
                self._run(sadr={"gamma": 0, "reuse": False})
            finally:
                start.close()
        assert start.gap is not None, NO_EDIT
        assert start.gap <= BASELINE_TOLERANCE, (
            f"the attention at the first step is up to {start.gap:.1e} off that of the unedited "
            "model: the vector is not zero there, so the Edit needs zero_start=False"
        )

    def test_term_is_in_value_and_gradient(self) -> None:
        """The loss grows by γ · penalty, and the optimisation reduces the penalty."""
        free, held = self._report(gamma=0.0), self._report(gamma=self.gamma)
        penalised = [step.index for step in held.steps if step.penalty > 0]
        assert penalised, NO_PENALTY
        first = penalised[0]
        for before, after in zip(free.steps[:first], held.steps[:first], strict=True):
            assert before.loss == after.loss, "the losses part before there is a penalty"
        gained = held.steps[first].loss - free.steps[first].loss
        expected = self.gamma * held.steps[first].penalty
        assert abs(gained - expected) <= 1e-4 * abs(held.steps[first].loss), (
            f"the loss gained {gained}, not gamma x penalty = {expected}"
        )
        assert len(free.steps) > first + 1, "no step follows the first with a penalty"
        assert held.steps[-1].penalty < free.steps[len(held.steps) - 1].penalty, (
            "the penalty does not fall: it is not in the gradient, or the learning rate is too "
            "small to test with"
        )

    def test_num_grad_steps(self) -> None:
        """The editor takes the number of steps that the user asks for."""
        if self.point.steps_attribute is None:
            try:
                self._run(sadr=self._flag(gamma=0, num_grad_steps=2))
            except ConfigError:
                return
            raise AssertionError("num_grad_steps was accepted, and there is no such attribute")
        for wanted in (2, 3):
            with witnessing() as witness:
                self._run(sadr=self._flag(gamma=0, num_grad_steps=wanted))
            taken = len(witness.only_report().steps)
            assert taken == wanted, (
                f"of {wanted} steps the editor took {taken}: is the number of its steps really "
                f"{self.point.steps_attribute!r}?"
            )

    def test_target_grows_likelier(self) -> None:
        """The target that ``stop_at`` reads is the target of the editor: its probability rises."""
        try:
            with witnessing() as witness:
                self._run(sadr=self._flag(gamma=0, stop_at=1.0))
        except ConfigError as error:
            if "does not say" not in str(error):
                raise
            importlib.import_module("pytest").skip(str(error))
        reached = [step.target or 0.0 for step in witness.only_report().steps]
        assert reached, "the edit had no step"
        assert max(reached) > reached[0], (
            f"the target's probability, {reached[0]:.3g} at first, is lower at every other step: "
            "is the adapter's target the one the editor aims at?"
        )

    def test_target_is_what_the_loss_aims_at(self) -> None:
        """The adapter's target and labels are what the editor's own loss makes likelier."""
        aim = self._aim()
        assert aim.edit is not None, NO_EDIT
        if not any(aim.cosines.values()):
            importlib.import_module("pytest").skip("the adapter gives no target for the loss")
        target = min(aim.cosines.get("target", ()), default=1.0)
        assert target > SAME_AIM, (
            f"the editor's loss does not aim at the adapter's target {aim.edit.target!r}: the "
            f"cosine of their gradients is {target:.2f}"
        )
        labels = min(aim.cosines.get("labels", ()), default=1.0)
        assert labels > SAME_AIM, (
            f"the editor's loss does not aim at the adapter's labels {self.point.labels!r}: the "
            f"cosine of their gradients is {labels:.2f}; a label stands at the position whose "
            "logits predict it, one before the token itself"
        )

    def test_no_prompt_is_left_out(self) -> None:
        """The adapter names every rewriting prompt of the batch, those with a prefix too."""
        aim = self._aim()
        assert aim.edit is not None, NO_EDIT
        assert not aim.left_out, (
            f"after the adapter's prompts, the batch has others that the editor's loss looks at: "
            f"{aim.left_out}; Edit.prompts has to name every rewriting prompt"
        )

    def test_selection_is_the_definition(self) -> None:
        """Heads are selected by their attention to the edited token."""
        with witnessing() as witness:
            self.run(self._frozen_model(), self.hparams(sadr=self._flag(gamma=self.gamma)))
        report = witness.only_report()
        assert witness.rows, NO_PENALTY
        declared, edited = (
            witness.rows[-1]["subject"].tolist(),
            edited_tokens(witness.rows[-1]),
        )
        assert edited == declared, (
            f"the editor changes the tokens {edited} of its prompts, the adapter's edited_token "
            f"and prompts say {declared}"
        )
        first = len(report.steps) - len(witness.rows)
        for step, rows in zip(report.steps[first:], witness.rows, strict=True):
            share = selected_share(rows)
            assert abs(share - step.selected) < 1e-6, (
                f"step {step.index}: {step.selected} of the heads were selected, by definition "
                f"{share}"
            )

    def test_other_prompts_see_the_vector(self) -> None:
        """`RunningEdit.replay` computes what the loop computes. ``keep`` depends on this."""
        model = self._frozen_model()
        with registered(Echo()) as echo:
            hook = model.register_forward_hook(echo.watch)
            try:
                self.run(model, self.hparams(sadr=self._flag(gamma=self.gamma)))
            except UnsupportedLoopError as error:
                importlib.import_module("pytest").skip(str(error))
            finally:
                hook.remove()
        assert len(echo.gaps) > 1, "no edit was reported, or one of a single step"
        assert max(echo.gaps) <= REPLAY_TOLERANCE, (
            f"the loop's own prompt, run as another, gives log-probabilities {max(echo.gaps):.1e} "
            "off: the vector is not put where the loop puts it, or the adapter's prompts are not "
            "the loop's; check layer, edited_token and prompts, which end before the target"
        )
        assert max(echo.moves) > 10 * REPLAY_TOLERANCE, (
            f"the vector moves what the model says by {max(echo.moves):.1e} at most: too few "
            "steps, or too small a learning rate, to test with"
        )

    def test_model_and_toolkit_are_restored(self) -> None:
        """Nothing is left behind after success, an exception or an interrupt."""
        disable()
        alone = self.new_model()
        self.run(alone, self.hparams())
        flags = [parameter.requires_grad for parameter in alone.parameters()]
        enable()
        for error in (None, RuntimeError("injected"), KeyboardInterrupt()):
            model = self.new_model()
            before = own_attributes(model)
            weights = copy.deepcopy(model.state_dict())
            raised = self._break_off(model, error)
            assert raised is error, f"{error!r} came out as {raised!r}"
            assert own_attributes(model) == before, f"after {error!r} the model's modules differ"
            assert all(
                torch.equal(weight, weights[name]) for name, weight in model.state_dict().items()
            ), f"after {error!r} the weights differ"
            assert [parameter.requires_grad for parameter in model.parameters()] == flags, (
                f"after {error!r} requires_grad is not as the toolkit leaves it"
            )
            copy.deepcopy(model)

    def test_wrong_settings_are_refused(self) -> None:
        """A wrong ``sadr`` value raises one `ConfigError` where it is set."""
        for bad in ({"gama": 1}, {"gamma": -1}, {"gamma": "much"}, "yes", {"layers": "a-b"}):
            try:
                self.hparams(sadr=bad)
            except ConfigError:
                continue
            except Exception as error:
                raise AssertionError(
                    f"sadr={bad!r} raised {type(error).__name__}, not ConfigError: does the "
                    f"declaration name the right hparams class, {self.point.hparams}?"
                ) from error
            raise AssertionError(f"sadr={bad!r} was accepted")

    def test_two_edits_in_a_row(self) -> None:
        """The first edit does not influence the second."""
        first = self._run(sadr=self._flag(gamma=self.gamma))
        assert_equal(self._run(sadr=self._flag(gamma=self.gamma)), first, "the second edit differs")

    def test_two_threads_with_two_models(self) -> None:
        """Parallel edits give the same results as single edits."""
        expected = self._run(sadr=self._flag(gamma=self.gamma))
        found: list[Any] = [None, None]
        # The models are built here because two threads that seed one random generator would disturb
        # each other.
        models = [self.new_model() for _ in found]

        def edit(place: int) -> None:
            try:
                hparams = self.hparams(sadr=self._flag(gamma=self.gamma))
                found[place] = list(tensors_in(self.run(models[place], hparams)))
            except BaseException as error:
                found[place] = error

        threads = [threading.Thread(target=edit, args=(place,)) for place in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for result in found:
            if isinstance(result, BaseException):
                raise AssertionError(f"an edit in a thread failed: {result!r}") from result
            # Two threads share the processor differently, so sums may differ in their last bit.
            assert_equal(result, expected, "an edit in a thread differs", tolerance=1e-4)

    def _flag(self, **settings: Any) -> dict[str, Any]:
        return {"reuse": self.reuse, **settings}

    def _run(self, **flag: Any) -> list[Tensor]:
        return list(tensors_in(self.run(self.new_model(), self.hparams(**flag))))

    def _report(self, gamma: float) -> Report:
        with witnessing() as witness:
            self._run(sadr=self._flag(gamma=gamma))
        return witness.only_report()

    def _frozen_model(self) -> nn.Module:
        """Return a model in which only the vector has a gradient, so that its layer can be seen."""
        return self.new_model().requires_grad_(False)

    def _aim(self) -> Aim:
        """Run an edit, and return what its loss aims at."""
        model = self._frozen_model()
        with registered(Aim()) as aim:
            hook = model.register_forward_hook(aim.watch, with_kwargs=True)
            try:
                self.run(model, self.hparams(sadr={"gamma": 0, "reuse": False}))
            finally:
                hook.remove()
                aim.close()
        return aim

    def _break_off(self, model: nn.Module, error: BaseException | None) -> BaseException | None:
        """Run an edit. If ``error`` is given, raise it in the second forward with gradients.

        Returns:
            The exception that ended the edit, or None.
        """
        forwards = 0

        def stop(*_: object) -> None:
            nonlocal forwards
            forwards += torch.is_grad_enabled()
            if forwards == 2 and error is not None:
                raise error

        deepest = list(model.modules())[-1]
        hook = deepest.register_forward_pre_hook(stop)
        try:
            self.run(model, self.hparams(sadr=self._flag(gamma=self.gamma)))
        except BaseException as raised:
            return raised
        finally:
            hook.remove()
        return None
