"""A loop of a few steps on a tiny Llama, with reuse of forwards or without."""

import torch

import sadr_plugin
from sadr_plugin.attention._layers import Watch
from sadr_plugin.attention._rows import rows_of
from sadr_plugin.attention._tracer import tracer_for
from sadr_plugin.reuse._reuse import reuse_for
from support import tiny_llama

EDITED = 1


def hooks():
    return sadr_plugin.plugin_manager().hook


class Trial:
    """A loop of a few steps on a tiny Llama, with reuse or without.

    Args:
        subject: the token that gains the vector, in each row.
        read: the token at which each row's logits are read.
        watched: the token at which each row's attention is; the same if it is None.
        at: gives the tokens that gain it, by step, where they change.
        before: called with this before each step.
        edited: the index of the edited layer.
    """

    def __init__(
        self,
        model,
        inputs,
        subject,
        read,
        at=None,
        before=None,
        steps=4,
        start=0.0,
        watched=None,
        edited=EDITED,
    ):
        self.model, self.inputs, self.read, self.steps = model, inputs, read, steps
        self.subject, self.at, self.before = subject, at or (lambda _: subject), before
        self.watched = read if watched is None else watched
        self.edited = edited
        self.vector = torch.full((32,), start, dtype=model.dtype, requires_grad=True)
        self.reusing = None
        self.losses, self.outputs, self.strayed = [], [], []

    def run(self, reuse):
        model, watch = self.model, Watch(self.model, "model.layers.{}", self.edited)
        self.reusing = reuse_for(watch, hooks())
        step = 0

        def add(module, args, output):
            output = output[0] if isinstance(output, tuple) else output
            output[torch.arange(len(output)), self.at(step)] += self.vector

        try:
            with tracer_for(watch, hooks()) as tracer:
                hook = model.model.layers[self.edited].register_forward_hook(add)
                if reuse:
                    self.reusing.fill()
                for step in range(self.steps):  # noqa: B007
                    if self.before is not None:
                        self.before(self)
                    self._step(tracer, reuse)
        finally:
            self.left_out, self.remark = self.reusing.left_out(), self.reusing.remark()
            self.reusing.restore()
            hook.remove()
        return self.vector.detach()

    def _step(self, tracer, reuse):
        inputs = dict(self.inputs)

        def forward():
            return tracer.run(lambda: self.reusing.within(lambda: self.model(**inputs)))

        output, seen = self.reusing.run(forward, inputs, self.watched) if reuse else forward()
        if self.reusing.strayed is not None:
            self.strayed.append(bool(self.reusing.strayed))
        rows = rows_of(seen, self.watched, self.reusing.span(self.read.device))
        logits = output.logits[torch.arange(len(self.read)), self.read]
        loss = sum(row.square().sum() for row in rows) - logits.log_softmax(-1)[:, 3].mean()
        (gradient,) = torch.autograd.grad(loss, self.vector)
        with torch.no_grad():
            self.vector -= 0.3 * gradient / gradient.norm()
        self.losses.append(loss.item())
        self.outputs.append(output)


def model_(**changes):
    model = tiny_llama().requires_grad_(False)
    for name, value in changes.items():
        setattr(model.config, name, value)
    return model


def batch(*lengths, side="right", tokens=None):
    tokens = tokens or max(lengths)
    ids = torch.randint(2, 18, (len(lengths), tokens), generator=torch.Generator().manual_seed(7))
    mask = torch.zeros(len(lengths), tokens, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, tokens - length :] = 1
    mask = mask if side == "left" else mask.flip(-1)
    return {"input_ids": ids, "attention_mask": mask}


INPUTS = batch(9, 6, 8)


SUBJECT, READ = torch.tensor([5, 3, 4]), torch.tensor([8, 5, 7])


def trial(model=None, inputs=None, **options):
    return Trial(model or model_(), inputs or INPUTS, SUBJECT, READ, **options)


def same(found, expected, tolerance=5e-6):
    assert ((found - expected).norm() / expected.norm()).item() <= tolerance
