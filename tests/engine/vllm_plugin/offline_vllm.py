"""Runs prompts in a real vLLM: a program for the environment that has one, which the tests start.

Reads {"llm": arguments of LLM, "prompts": [...]} as JSON from standard input, and writes results to the file that the
first argument names, with logits in a .npz file next to it. A prompt has "text", "images" (files), "videos" (files and
times of each), "options" (mm_processor_kwargs) and "tokens", the number of generated tokens.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from vllm import LLM, SamplingParams


def pixels(file, crop=None):
    return np.asarray(Image.open(file).convert("RGB").crop(crop) if crop else Image.open(file).convert("RGB"))


def request(prompt):
    images = [Image.fromarray(pixels(*image)) for image in prompt.get("images", [])]
    videos = [
        (np.stack([pixels(file) for file in video["files"]]), {"timestamps": video["times"]})
        for video in prompt.get("videos", [])
    ]
    data = {name: items for name, items in (("image", images), ("video", videos)) if items}
    return {"prompt": prompt["text"], "multi_modal_data": data, "mm_processor_kwargs": prompt["options"]}


def dense(logprobs):
    return np.array([logprobs[i].logprob for i in sorted(logprobs)], np.float32)


def main(out):
    job = json.load(sys.stdin)
    llm = LLM(**job["llm"])
    results, logits = [], {}
    for number, prompt in enumerate(job["prompts"]):
        # With log-probabilities of the prompt, vLLM would not use the prefix cache.
        many = {"logprobs": -1, "prompt_logprobs": -1, "detokenize": False} if prompt.get("logits") else {}
        sampling = SamplingParams(max_tokens=prompt["tokens"], temperature=0, ignore_eos=True, **many)
        try:
            [output] = llm.generate(request(prompt), sampling)
        except ValueError as err:
            results.append({"error": str(err)})
            continue
        [answer] = output.outputs
        results.append(
            {"prompt": output.prompt_token_ids, "generated": list(answer.token_ids), "cached": output.num_cached_tokens}
        )
        if many:
            logits[f"{number}.prompt"] = np.stack([dense(row) for row in output.prompt_logprobs[-7:]])
            logits[f"{number}.last"] = dense(answer.logprobs[0])
    np.savez(out.with_suffix(".npz"), **logits)
    out.write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
