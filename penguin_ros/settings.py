"""Every parameter of the node in one table, and the settings that follow from their values. Does not import ROS.

The table holds name, default, description and limits; nodes/parameters.py declares it, docs/parameters.md shows it,
the files in launch/config set it.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from penguin_engine.runtimes.loading import RUNTIMES
from penguin_engine.scene.camera_state import CaptionConfig
from penguin_engine.scene.episode import Quota
from penguin_engine.scene.generation import Sampling
from penguin_engine.scene.memory import MemoryConfig
from penguin_engine.scene.pace import PaceConfig
from penguin_engine.scene.remote.opening import check_url
from penguin_engine.scene.requests import MAX_CAMERAS
from penguin_models.config import ImageConfig
from penguin_models.decoding import MAX_IMAGE_PIXELS
from penguin_models.errors import BudgetError, SettingError
from penguin_models.keyframe_policy import KeyframePolicy
from penguin_models.novelty_policy import NoveltyConfig, NoveltyPolicy
from penguin_models.quoting import quoted, shortened
from penguin_ros.images import Decoding
from penguin_ros.raw_images import MONO16_SCALINGS


@dataclass(frozen=True)
class Setting:
    """One parameter."""

    name: str  # name of the ROS parameter
    default: Any  # default value; its type is the parameter's type
    description: str  # meaning, with the unit
    low: float | None = None  # minimum; None for no limit
    high: float | None = None  # maximum; None for no limit
    choices: tuple[str, ...] = ()  # accepted values; empty for any
    live: bool = True  # whether it may change while the node is configured; otherwise only while it is unconfigured
    read_only: bool = False  # whether it can be set only when the node starts

    def convert(self, value: Any) -> Any:
        """Returns a value in this parameter's type: numbers are converted where that is exact.

        Raises:
            SettingError: The value has another type, or is too long.
        """
        kind = type(self.default)
        _check_length(self.name, value)
        is_number = isinstance(value, float) or (type(value) is int and abs(value) < 2**63)
        if kind is float and is_number:
            return float(value)
        if kind is int and is_number and float(value).is_integer():
            return int(value)
        if kind is list and isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            return list(value) or [""]  # rclpy takes an empty list for one of bytes
        if kind in (bool, str) and isinstance(value, kind):
            return value
        raise SettingError(f"{self.name} is {quoted(value)}, it must be {_KINDS[kind]}")


_KINDS = {
    bool: "true or false",
    float: "a number",
    int: "a whole number",
    str: "a string (quoted, if it looks like a number)",
    list: "a list of strings, as in ['/camera/image_raw']",
}

_MAX_CHARS = 4096
"""Maximum length of a string: the longest path of Linux."""
_CAPTION, _NOVELTY, _MEMORY, _SAMPLING = CaptionConfig(), NoveltyConfig(), MemoryConfig(), Sampling()
_PACE = PaceConfig()
_TOKEN_BUDGET = 4096
"""Largest budget that is chosen for a checkpoint; released ones were trained with four times as many tokens."""

SETTINGS = (
    Setting("model", "", "Checkpoint folder, exported folder, or owner/name on the model hub; with runtime openai, the "
            "name of the model on the server.", live=False),
    Setting("runtime", "torch", "What runs the model; onnx and tensorrt need an exported folder, openai a server of "
            "the OpenAI API (base_url).", choices=(*RUNTIMES, "openai"), live=False),
    Setting("base_url", "", "With runtime openai: URL of the server's API, such as http://127.0.0.1:8000/v1.",
            live=False),
    Setting("api_key_file", "", "With runtime openai: file with the server's key; empty for the key in the environment "
            "variable PENGUIN_VL_API_KEY, if it is set.", live=False),
    Setting("fallback", "none", "With runtime openai: local runtime that answers while the server does not.",
            choices=("none", *RUNTIMES), live=False),
    Setting("fallback_model", "", "Model of the local runtime, as for model.", live=False),
    Setting("device", "auto", "Device of the weights: cpu, cuda, cuda:1; auto is cuda if there is one. The onnx "
            "runtime also takes tensorrt and tensorrt-rtx.", live=False),
    Setting("precision", "auto", "Type of the weights; auto is as stored, or float32 on a CPU that would emulate it.",
            choices=("auto", "float32", "float16", "bfloat16", "int8", "int4", "fp8"), live=False),
    Setting("threads", 0, "Threads per operator on a CPU; 0 for all cores.", 0, 1024, live=False),
    Setting("image_topics", ["image_raw"], "Image topics, raw or compressed: the type is what is published.",
            live=False),
    Setting("image_reliability", "auto", "Reliability of the image subscriptions; auto is what the publishers offer.",
            choices=("auto", "best_effort", "reliable"), live=False),
    Setting("depth_topics", [""], "Depth topic of each of image_topics, registered to it; '' for a camera without. "
            "With depth, captions and answers carry the positions of their objects.", live=False),
    Setting("camera_info_topics", [""], "CameraInfo topic of each of image_topics; '' for a camera without depth.",
            live=False),
    Setting("target_frame", "", "Frame of the positions, which needs TF (tf2_ros); empty for that of the camera.",
            live=False),
    Setting("token_budget", 0, "Maximum number of visual tokens in memory, split evenly between the cameras; 0 for the "
            f"checkpoint's (max_tokens of preprocessor_config.json), at most {_TOKEN_BUDGET}.", 0, 1_000_000),
    Setting("sample_rate_hz", 2.0, "Frames per second taken from each camera, by their stamps; 0 for all.",
            0.0, 1000.0),
    Setting("mono16_scaling", "percentiles", "16-bit grey images: percentiles stretches the range that an image uses, "
            "full_range keeps 0 to 65535.", choices=MONO16_SCALINGS, live=False),
    Setting("max_image_pixels", MAX_IMAGE_PIXELS, "An image with more pixels is refused before it is decoded.",
            1, 1_000_000_000, live=False),
    Setting("memory.arrival", _MEMORY.arrival, "full_size: frames arrive as large as fits; by_kind: once the budget "
            "has been reached, intermediate frames arrive small.", choices=("full_size", "by_kind"), live=False),
    Setting("memory.jump_back_s", _MEMORY.jump_back_s, "A stamp older than the newest one by this many seconds means "
            "that time jumped back (a bag loops): the memory is cleared.", 0.001, 86_400.0, live=False),
    Setting("keyframe.policy", "novelty", "novelty: what is new in view; reference: the released rule.",
            choices=("novelty", "reference")),
    Setting("keyframe.threshold", _NOVELTY.threshold, "Change of a cell that counts, in grey levels.", 0.1, 254.0),
    Setting("keyframe.min_cells", _NOVELTY.min_cells, "Changed cells in a window of 5x5 that make a keyframe.", 1, 25),
    Setting("keyframe.min_interval_s", _NOVELTY.min_interval_s, "Minimum seconds between two keyframes.", 0.0, 3600.0),
    Setting("system_prompt", "", "What the model is told before it sees the frames, for answers, captions and watches; "
            "empty for nothing."),
    Setting("caption.prompt", _CAPTION.prompt, "Prompt for captions."),
    Setting("caption.period_s", _CAPTION.period_s, "Seconds between captions, by message stamps; 0 for no periodic "
            "captions.", 0.0, 86_400.0),
    Setting("caption.on_keyframe", _CAPTION.on_keyframe, "Whether every keyframe gets a caption."),
    Setting("caption.max_new_tokens", _CAPTION.max_new_tokens, "Maximum length of a caption in tokens.", 1, 1024),
    Setting("caption.max_age_s", _CAPTION.max_age_s, "A frame that arrived more than this many seconds ago gets no "
            "caption.", 0.001, 86_400.0),
    Setting("caption.response_schema", _CAPTION.response_schema, "JSON schema that captions follow, or objects for "
            "objects with boxes; empty for plain text."),
    Setting("answer.max_new_tokens", _SAMPLING.max_new_tokens, "Maximum length of an answer in tokens, unless the "
            "question sets one.", 1, 1024),
    Setting("answer.temperature", _SAMPLING.temperature, "Sampling temperature; 0 takes the most likely token.",
            0.0, 100.0),
    Setting("answer.top_p", _SAMPLING.top_p, "Sample from the smallest set of tokens with this total probability.",
            0.000001, 1.0),
    Setting("answer.seed", _SAMPLING.seed, "The same seed gives the same answer.", 0, 2**31 - 1),
    Setting("queue_size", 8, "Maximum number of waiting questions; more are refused as busy.", 1, 1000),
    Setting("camera_timeout_s", 3.0, "A camera without an image for this many seconds is stale.", 0.1, 86_400.0),
    Setting("autostart", False, "Configure and activate at start, without a lifecycle manager.", live=False,
            read_only=True),
    Setting("bond_heartbeat_period", 0.0, "Seconds between the heartbeats to nav2's lifecycle manager while the node "
            "is active (nav2 uses 0.1; needs bondpy); 0 for no bond.", 0.0, 4.0, live=False),
    Setting("latency_target_s", 2.0, "Seconds within which the first token of an answer is due, unless the question "
            "sets a deadline: with a pace, frames are left out for it. 0 for no deadline.", 0.0, 3600.0),
    Setting("pace", True, "Whether looking adapts to the machine: size and rate of frames, captions, and what an "
            "answer looks at.", live=False),
    Setting("pace.max_step_s", _PACE.max_step_s, "Seconds that a single operation may take while a question could "
            "arrive.", 0.01, 60.0, live=False),
    Setting("pace.load", _PACE.load, "Largest share of the time for looking (frames and captions).", 0.01, 1.0,
            live=False),
    Setting("episodes.path", "", "Where keyframes and captions are kept for days: an SQLite file, or the postgresql:// "
            "URL of a database for several robots; empty for nowhere.", live=False),
    Setting("episodes.max_mb", 1000.0, "Largest size of the episodes in megabytes; the oldest leave first.",
            4.0, 10_000_000.0, live=False),
    Setting("episodes.max_days", 30.0, "Largest age of the episodes in days, relative to the newest.",
            0.001, 36_500.0, live=False),
    Setting("episodes.mb_per_day", 100.0, "Megabytes of episodes per day on average: keyframes beyond it are skipped. "
            "What two hours leave unused may be written at once.", 0.1, 1_000_000.0, live=False),
    Setting("episodes.fixed_frame", "map", "Frame in which the poses of the cameras are kept; empty for no poses. They "
            "come from TF and need tf2_ros.", live=False),
)  # fmt: skip
"""All parameters, in the order of their documentation."""
BY_NAME = {setting.name: setting for setting in SETTINGS}


@dataclass(frozen=True)
class NodeSettings:
    """The values of all parameters, checked against each other."""

    values: Mapping[str, Any]
    novelty: NoveltyConfig
    caption: CaptionConfig
    sampling: Sampling
    pace: PaceConfig

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> NodeSettings:
        """Returns settings from the value of every parameter.

        Raises:
            PenguinError: A value is out of range or contradicts another one.
        """
        values = {**values, **{setting.name: setting.convert(values[setting.name]) for setting in SETTINGS}}
        for setting in SETTINGS:
            _check(setting, values[setting.name])
        if values["keyframe.policy"] == "reference" and importlib.util.find_spec("torch") is None:
            raise SettingError("keyframe.policy is 'reference', which needs torch; pip install torch, or set novelty")
        topics = values["image_topics"]
        if not topics or len(set(topics)) < len(topics) or not all(topics):
            raise SettingError(
                "image_topics must name at least one topic, each once, as in ['/camera/image_raw']; "
                f"it is {quoted(list(topics))}"
            )
        _check_depth(values)
        if values["base_url"]:
            check_url(values["base_url"])
        novelty = _group(values, "keyframe.")
        del novelty["policy"]
        settings = cls(
            values,
            NoveltyConfig(**novelty),
            CaptionConfig(**_group(values, "caption.")),
            Sampling(**_group(values, "answer.")),
            PaceConfig(**_group(values, "pace.")),
        )
        settings.memory(ImageConfig())  # refuses a budget that is too small
        return settings

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    @property
    def local_model(self) -> tuple[str, str] | None:
        """Runtime and model in this process; None if there is none."""
        if self["runtime"] != "openai":
            return self["runtime"], self["model"]
        return None if self["fallback"] == "none" else (self["fallback"], self["fallback_model"])

    @property
    def without_effect(self) -> list[str]:
        """Names of parameters that are set, and have no effect because of others."""
        names = []
        if self["runtime"] != "openai":
            names = ["base_url", "api_key_file", "fallback", "fallback_model"]
        elif self["fallback"] == "none":
            names = ["fallback_model"]
        return [name for name in names if self[name] != BY_NAME[name].default]

    @property
    def decoding(self) -> Decoding:
        """How image messages are decoded."""
        return Decoding(self["mono16_scaling"], self["max_image_pixels"])

    @property
    def depth_cameras(self) -> list[tuple[str, str, str]]:
        """Image, depth and camera_info topic of each camera with depth."""
        topics = zip(*(self[name] for name in ("image_topics", "depth_topics", "camera_info_topics")), strict=False)
        return [item for item in topics if item[1]]

    @property
    def quota(self) -> Quota:
        """What the episodes take at most."""
        return Quota(round(self["episodes.max_mb"] * 1e6), self["episodes.max_days"] * 86_400)

    def token_budget(self, images: ImageConfig) -> int:
        """Returns the number of visual tokens for all cameras together, with a checkpoint of this configuration."""
        return self["token_budget"] or min(images.max_tokens, _TOKEN_BUDGET)

    def memory(self, images: ImageConfig) -> MemoryConfig:
        """Returns the configuration of each camera's memory, with a checkpoint of this configuration.

        Raises:
            SettingError: The budget is too small for the number of cameras.
        """
        budget, cameras = self.token_budget(images), len(self["image_topics"])
        try:
            return MemoryConfig(token_budget=budget // cameras, **_group(self.values, "memory."))
        except BudgetError as err:
            shared = "1 camera" if cameras == 1 else f"{cameras} cameras"
            raise SettingError(f"token_budget is {budget} for {shared}: {err}") from err

    def policy(self) -> KeyframePolicy:
        """Returns a new keyframe policy."""
        if self["keyframe.policy"] == "novelty":
            return NoveltyPolicy(self.novelty)
        from penguin_models.reference_policy import ReferencePolicy  # needs torch, unlike everything else here

        return ReferencePolicy()

    def changes_to(self, other: NodeSettings) -> set[str]:
        """Returns the names of the parameters that differ."""
        return {name for name, value in self.values.items() if other[name] != value}


def unknown_parameter(name: str, known: Iterable[str] = tuple(BY_NAME)) -> str:
    """Returns a message about a parameter that does not exist, with the names that may have been meant."""
    name, known = shortened(name), list(known)
    meant = difflib.get_close_matches(name, known, n=1) or [
        other for other in known if name.rpartition(".")[2] == other.rpartition(".")[2]
    ]
    return f"there is no parameter {name}" + (f"; did you mean {' or '.join(meant)}?" if meant else "")


def _group(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def _check_length(name: str, value: Any) -> None:
    if isinstance(value, str) and len(value) > _MAX_CHARS:
        raise SettingError(f"{name} has {len(value)} characters, the limit is {_MAX_CHARS}; shorten it")
    if isinstance(value, list | tuple):
        if len(value) > MAX_CAMERAS:
            raise SettingError(f"{name} has {len(value)} elements, the limit is {MAX_CAMERAS}")
        for item in value:
            _check_length(f"an element of {name}", item)


def _check_depth(values: Mapping[str, Any]) -> None:
    """Raises SettingError if the topics of depth and those of images do not belong together."""
    images, depths, infos = (values[name] for name in ("image_topics", "depth_topics", "camera_info_topics"))
    for name, topics in (("depth_topics", depths), ("camera_info_topics", infos)):
        if topics != [""] and len(topics) != len(images):
            raise SettingError(
                f"{name} has {len(topics)} elements and image_topics {len(images)}: name one for each camera, '' for a "
                "camera without depth"
            )
    for image, depth, info in zip_longest(images, depths, infos, fillvalue=""):
        if bool(depth) != bool(info):
            missing = "camera_info_topics" if depth else "depth_topics"
            raise SettingError(f"{missing} names no topic for {quoted(image)}: a position needs depth and CameraInfo")
    if values["target_frame"] and not any(depths):
        raise SettingError(
            f"target_frame is {quoted(values['target_frame'])} and depth_topics names no topic, so there are no "
            "positions; set depth_topics, or leave target_frame empty"
        )


def _check(setting: Setting, value: Any) -> None:
    if setting.choices and value not in setting.choices:
        raise SettingError(f"{setting.name} is {quoted(value)}, it must be one of {', '.join(setting.choices)}")
    if setting.low is not None and setting.high is not None and not setting.low <= value <= setting.high:
        raise SettingError(f"{setting.name} is {value}, it must be from {setting.low} to {setting.high}")
