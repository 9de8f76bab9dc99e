"""A plug-in of vLLM: Penguin-VL as one of its models, with vLLM's own attention, cache and scheduler.

vLLM finds `register` through this package's entry point in every process that it starts. The modules next to it import
vLLM and are imported by nothing else.
"""

from pathlib import Path

from penguin_models.config import MODEL_TYPE

ARCHITECTURE = "PenguinVLQwen3ForCausalLM"
CHAT_TEMPLATE = Path(__file__).parent / "chat_template.jinja"
VIDEO_PROCESSOR = "PenguinVLVideoProcessor"
"""Name by which vLLM finds how a model's videos are read."""


def register() -> None:
    """Registers model, configuration, chat template and reader of videos; may be called repeatedly."""
    from transformers import AutoConfig
    from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES
    from vllm import ModelRegistry
    from vllm.transformers_utils.chat_templates.registry import register_chat_template_fallback_path

    from penguin_engine.vllm_plugin import video_loader  # noqa: F401  # registers itself
    from penguin_engine.vllm_plugin.config import PenguinVLConfig

    AutoConfig.register(MODEL_TYPE, PenguinVLConfig, exist_ok=True)
    VIDEO_PROCESSOR_MAPPING_NAMES[MODEL_TYPE] = VIDEO_PROCESSOR
    register_chat_template_fallback_path(MODEL_TYPE, CHAT_TEMPLATE)
    # By name, so that only the processes that run a model import it.
    ModelRegistry.register_model(ARCHITECTURE, f"{__name__}.model:PenguinVLForCausalLM")
