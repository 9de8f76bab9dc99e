"""`penguin-vl demo`: asks the checkpoint that comes with the repository about pictures that come with it."""

from __future__ import annotations

from pathlib import Path

from penguin_ros.cli.output import JsonOption, print_json, stdout

_DATA = Path(__file__).resolve().parents[2] / "tests" / "data"
_MAX_NEW_TOKENS = 12


def demo(as_json: JsonOption = False) -> None:
    """Ask about shipped images and a clip, and show what it costs."""
    from penguin_engine.ask import ask
    from penguin_engine.generation import Sampling
    from penguin_engine.runtimes.torch import TorchRuntime
    from penguin_models.checkpoint import load_pretrained
    from penguin_models.errors import MediaError
    from penguin_models.media import VideoFile, load_image
    from penguin_models.reference_policy import ReferencePolicy

    media = _DATA / "reference" / "media"
    if not media.is_dir():
        raise MediaError(f"the demo's pictures are not at {media}; run it from a clone of the repository (make demo)")
    model, processor = load_pretrained(_DATA / "reference" / "checkpoint")
    runtime, sampling = TorchRuntime(model), Sampling(max_new_tokens=_MAX_NEW_TOKENS)
    if not as_json:
        stdout.out(
            "The weights of this demo are UNTRAINED (a 0.7 M-parameter random checkpoint that pins the arithmetic):\n"
            "the answers are noise by design. What is real: pictures, video, key frames, token budget, timings.\n"
        )
    results = []
    for name, question in (
        ("tabletop.png", "Describe this image."),
        ("portrait.png", "Where is the red ball?"),
        ("manifest.png", "Read the text."),
        ("clip.mp4", "When did the blue cube move?"),
    ):
        still = (media / name).is_file()
        answer = ask(
            runtime,
            processor,
            question,
            images=[load_image(media / name)] if still else [],
            clip=None if still else VideoFile(_DATA / name),
            policy=ReferencePolicy(),
            max_tokens=1024,
            sampling=sampling,
        )
        results.append({"media": name, "question": question, **answer.to_dict()})
        if not as_json:
            seconds = sum(answer.seconds.values())
            stdout.out(f"{name}: {question}")
            stdout.out(f"  {answer.grounding.text!r}")
            stdout.out(
                f"  {answer.frames} frames ({answer.key_frames} key), {answer.visual_tokens} visual tokens, "
                f"{seconds:.2f} s\n"
            )
    if as_json:
        print_json({"weights": "untrained", "answers": results})
