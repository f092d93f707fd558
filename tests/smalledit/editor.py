import torch

from .hparams import SmallHparams

UNSEEN = []


def optimise(model, tok, request, hparams: SmallHparams, *, stop_below=0.0, on_step=None):
    """Find a vector that, added to a layer's MLP output at the subject, changes the answer."""
    prompts = [
        context.format(request["prompt"]).format(request["subject"]) for context in hparams.contexts
    ]
    target = tok(request["target"])["input_ids"]
    texts = [*prompts, request["subject"] + " is a"]
    batch = tok(texts, padding=True, return_tensors="pt")
    subject = [
        [i for i, token in enumerate(row.tolist()) if token == tok.vocab[request["subject"]]][-1]
        for row in batch["input_ids"]
    ]
    last = [int(row.nonzero()[-1]) for row in batch["attention_mask"]]
    layer = model.get_submodule(hparams.layer_module_tmp.format(hparams.layer))
    delta = torch.full((model.config.hidden_size,), hparams.start, requires_grad=True)

    def add_delta(module, args, output):
        if len(output) != len(subject):
            return None
        output = output.clone()
        for row, index in enumerate(subject):
            output[row, index] += delta
        return output

    hook = layer.mlp.register_forward_hook(add_delta)
    optimiser = torch.optim.Adam([delta], lr=hparams.lr)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    losses = []
    try:
        for step in range(hparams.v_num_grad_steps):
            optimiser.zero_grad()
            with torch.no_grad():
                model(**tok(["another batch"], return_tensors="pt"))
            logits = model(**batch).logits
            nll = -torch.stack(
                [
                    logits[row, index].log_softmax(-1)[target[0]]
                    for row, index in enumerate(last[:-1])
                ]
            ).mean()
            decay = 0.01 * delta.norm() ** 2
            loss = nll + decay
            losses.append(loss.item())
            if on_step is not None:
                on_step(step)
            if loss < stop_below:
                break
            loss.backward()
            optimiser.step()
    finally:
        hook.remove()
    return delta.detach(), losses


def no_backward(model, tok, request, hparams):
    for _ in range(2):
        loss = request + 1
    return loss


def two_losses(hparams):
    for _ in range(2):
        a = hparams
        b = hparams
        a.backward()
        b.backward()


def loss_from_outside(loss, hparams):
    for _ in range(2):
        loss.backward()
