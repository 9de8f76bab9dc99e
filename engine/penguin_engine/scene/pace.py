"""Pace: ties the cost of looking to the machine.

Looking is what nobody waits for: taking frames, encoding and prefilling them, captions and watches. From measured
costs the pace decides how large frames arrive, how often they are taken, how many tokens are prefilled at once, and
when the worker rests, so that

- no operation delays a question by more than `max_step_s`, or the smallest possible one where that takes longer;
- looking occupies at most the share `load` of the worker's time.

On a fast machine none of these limits is reached and nothing changes. Pure logic over an injected clock; one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

from penguin_engine.scene.step_cost import StepCost
from penguin_models.errors import SettingError

_LONGEST_PERIOD_S = 3.5
"""A frame of each camera is taken at least this often, whatever it costs."""
_TOLERATED_PERIOD_S = 2.0
"""Frames arrive smaller before they are taken less often than this (or than the sampling rate, if that is slower)."""
_RELUCTANCE = 0.7
"""Frames arrive larger only if that needs at most this share of what is allowed, so that sizes do not alternate."""
_ADAPT_PERIOD_S = 2.0
"""Sizes and periods change at most this often."""
_MAX_CREDIT_S = 1.0
"""Work that may be done at once after a rest."""
_REFILL = 0.9
"""Share of the load that is spent on average: the credit comes on top of it."""
_CAPTION_SHARE = 1 / 3
"""Share of the load that is kept for captions, if there are any; they also get what frames leave."""
_WATCH_SHARE = 1 / 6
"""The same for watches."""
_CAPTION_S = 4.0
"""Captions are cut so that they keep the worker from looking for at most about this long."""
_MIN_CAPTION_TOKENS = 16
_AVERAGE_S = 30.0
"""Time over which loads are averaged."""
_ANSWERING = 4
"""Chunks of an answer's own prefill may take this multiple of `max_step_s`: small chunks cost more per token."""
_OVERHEAD = 1.25
"""A chunk may take longer than `max_step_s` up to this multiple of a single token: smaller ones only add overhead."""


@dataclass(frozen=True)
class PaceConfig:
    """The limits of a pace."""

    max_step_s: float = 0.25  # seconds that an operation may take while a question could arrive
    load: float = 0.6  # largest share of the worker's time for looking

    def __post_init__(self) -> None:
        if not self.max_step_s > 0:
            raise SettingError(f"pace.max_step_s is {self.max_step_s}, it must be above 0")
        if not 0 < self.load <= 1:
            raise SettingError(f"pace.load is {self.load}, it must be above 0 and at most 1")


@dataclass(frozen=True)
class Source:
    """What the frames of one camera cost in patches and tokens."""

    tokens: int  # visual tokens of a frame at native size
    patches_per_token: int  # patches that are merged into one visual token
    text_tokens: int  # tokens of the text before each frame
    encodings: float = 1.0  # patches encoded per arriving patch
    prefills: float = 1.0  # tokens prefilled per arriving token


class Pace:
    """Decides what the worker of a scene may do, and learns what it costs.

    Attributes:
        config: The limits.
        encode: Cost of encoding one image, by its patches.
        append: Cost of appending to a KV cache, by the number of new tokens.
        arrival_tokens: Largest number of visual tokens with which a frame arrives; None for any.
        period_s: Seconds between two frames that are taken from a camera; 0 for all.
        reason: Why; empty while nothing is limited.
        missed: Number of answers whose first token was predicted to miss its deadline with the least evidence.
        needed_s: Seconds that the last of them needed.
    """

    def __init__(self, config: PaceConfig, clock: Callable[[], float] = monotonic):
        self.config, self.clock = config, clock
        self.encode, self.append = StepCost(), StepCost()
        self.arrival_tokens: int | None = None
        self.period_s = 0.0
        self.reason = ""
        self.missed, self.needed_s = 0, 0.0
        self._answering = False
        self._least_patches = 0  # of a frame at the floor
        self._take = StepCost()
        self._frames = _Credit(clock)
        self._captions = _Credit(clock)
        self._watches = _Credit(clock)
        self._taken_s: dict[str, float] = {}
        self._adapted_s, self._known = 0.0, [0]
        self._frame_load = _Load(clock)
        self._watch_load = _Load(clock)
        self._load = _Load(clock)

    # Steps

    @property
    def chunk_tokens(self) -> int:
        """Tokens to append at once: what takes as long as a step may, or as the smallest frame that is encoded."""
        step_s = max(self.config.max_step_s, self.encode_s(self._least_patches) if self._least_patches else 0.0)
        step_s *= _ANSWERING if self._answering else 1
        return self.append.largest(max(step_s, _OVERHEAD * self.append.seconds(1)))

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Allows larger chunks while a question is answered: they delay no other question."""
        self._answering = True
        try:
            yield
        finally:
            self._answering = False

    def encode_s(self, patches: int) -> float:
        """Returns the predicted seconds to encode an image."""
        return self.encode.seconds(patches)

    def append_s(self, tokens: int) -> float:
        """Returns the predicted seconds to append tokens in chunks."""
        chunk = self.chunk_tokens
        whole, rest = divmod(tokens, chunk)
        return whole * self.append.seconds(chunk) + (self.append.seconds(rest) if rest else 0.0)

    def frames_at_once(self, patches: int, tokens: int) -> int:
        """Returns the number of frames in a step, given the patches and tokens of each; at least one."""
        return max(1, int(self.config.max_step_s / max(self.encode_s(patches), self.append_s(tokens), 1e-9)))

    # Load

    @property
    def load(self) -> float:
        """Share of the last seconds that looking took."""
        return self._load.share

    def looked(self, seconds: float) -> None:
        """Counts work on frames."""
        for load in (self._frame_load, self._load):
            load.add(seconds)
        self._frames.spend(seconds)

    def captioned(self, seconds: float) -> None:
        """Counts work on a caption."""
        self._load.add(seconds)
        self._captions.spend(seconds)

    @property
    def watch_load(self) -> float:
        """Share of the last seconds that watches took, besides the prefill of their frames."""
        return self._watch_load.share

    def watched(self, seconds: float) -> None:
        """Counts work on watches."""
        for load in (self._watch_load, self._load):
            load.add(seconds)
        self._watches.spend(seconds)

    def rest_s(self, captions: bool, watches: bool = False) -> float:
        """Returns the seconds until work on frames may go on, 0 for now.

        Args:
            captions: Whether there are captions.
            watches: Whether there are watches.
        """
        return self._frames.wait_s(_REFILL * self._frame_share(captions, watches))

    def watch_rest_s(self) -> float:
        """Returns the seconds until a condition may be judged, 0 for now."""
        others = self._load.share - self._watch_load.share
        return self._watches.wait_s(_REFILL * max(_WATCH_SHARE * self.config.load, self.config.load - others))

    def caption_rest_s(self) -> float:
        """Returns the seconds until a caption may begin, 0 for now."""
        others = self._frame_load.share + self._watch_load.share
        share = max(_CAPTION_SHARE * self.config.load, self.config.load - others)
        return self._captions.wait_s(_REFILL * share)

    def caption_tokens(self, wanted: int, prompt_tokens: int) -> int:
        """Returns the length at which a caption is cut."""
        left_s = _CAPTION_S - self.append_s(prompt_tokens)
        return min(wanted, max(_MIN_CAPTION_TOKENS, int(left_s / max(self.append.seconds(1), 1e-9))))

    # Frames

    def frame_due_s(self, camera: str) -> float:
        """Returns the seconds until the next frame of a camera is taken, 0 for now."""
        taken_s = self._taken_s.get(camera)
        return 0.0 if taken_s is None else max(0.0, taken_s + self.period_s - self.clock())

    def took(self, camera: str, seconds: float) -> None:
        """Counts a frame that was taken, and the seconds for converting and labelling it."""
        self._taken_s[camera] = self.clock()
        self._take.observe(1, seconds)
        self.looked(seconds)

    def adapt(
        self,
        sources: Sequence[Source],
        sample_period_s: float,
        floor_tokens: int,
        captions: bool,
        watches: bool = False,
    ) -> bool:
        """Chooses how large frames arrive and how often they are taken; returns whether that changed.

        Args:
            sources: All cameras that have frames.
            sample_period_s: Seconds between two frames by the sampling rate; 0 for all frames.
            floor_tokens: Visual tokens below which no frame shrinks.
            captions: Whether captions share the load.
            watches: Whether watches share the load.
        """
        now_s = self.clock()
        known = [source.tokens for source in sources]
        if known == self._known and now_s - self._adapted_s < _ADAPT_PERIOD_S:
            return False
        self._adapted_s, self._known = now_s, known
        self._least_patches = floor_tokens * sources[0].patches_per_token
        share = _REFILL * self._frame_share(captions, watches)
        native = max(source.tokens for source in sources)
        tolerated_s = max(_TOLERATED_PERIOD_S, sample_period_s)
        present = native if self.arrival_tokens is None else self.arrival_tokens
        tokens = native
        while tokens > floor_tokens:
            margin = _RELUCTANCE if tokens > present else 1.0
            step_s = max(self.encode_s(min(s.tokens, tokens) * s.patches_per_token) for s in sources)
            fits = step_s <= margin * self.config.max_step_s
            if fits and self._cost(sources, tokens).total_s / share <= margin * tolerated_s:
                break
            tokens = max(floor_tokens, tokens // 2)
        cost = self._cost(sources, tokens)
        arrival = None if tokens >= native else tokens
        period_s = cost.total_s / share
        period_s = 0.0 if period_s <= sample_period_s else min(period_s, _LONGEST_PERIOD_S)
        steady = abs(period_s - self.period_s) <= 0.2 * self.period_s
        changed = arrival != self.arrival_tokens or not steady
        if changed:
            self.arrival_tokens, self.period_s = arrival, period_s
        self.reason = self._explain(cost, share, len(sources))
        return changed

    def release(self) -> bool:
        """Lets frames arrive at full size and at the sampling rate, until `adapt`; returns whether that changed."""
        changed = self.arrival_tokens is not None or self.period_s > 0
        self.arrival_tokens, self.period_s, self.reason, self._known = None, 0.0, "", [0]
        return changed

    def _frame_share(self, captions: bool, watches: bool) -> float:
        """Returns the share of time for frames."""
        return self.config.load * (1 - (_CAPTION_SHARE if captions else 0) - (_WATCH_SHARE if watches else 0))

    def _cost(self, sources: Sequence[Source], tokens: int) -> _Cost:
        """Returns what looking costs at one frame of each camera that arrives with at most some tokens."""
        encode_s = append_s = 0.0
        for source in sources:
            own = min(source.tokens, tokens)
            encode_s += source.encodings * self.encode_s(own * source.patches_per_token)
            append_s += source.prefills * self.append_s(own + source.text_tokens)
        return _Cost(len(sources) * self._take.seconds(1), encode_s, append_s)

    def _explain(self, cost: _Cost, share: float, cameras: int) -> str:
        if self.arrival_tokens is None and not self.period_s:
            return ""
        size = "full size" if self.arrival_tokens is None else f"at most {self.arrival_tokens} visual tokens each"
        rate = f"one every {self.period_s:.2f} s" if self.period_s else "at the sampling rate"
        of = "a frame" if cameras == 1 else f"a frame of each of {cameras} cameras"
        return (
            f"frames are taken at {size}, {rate}: {of} costs {cost.total_s:.2f} s here (converting {cost.take_s:.2f}, "
            f"encoding {cost.encode_s:.2f}, prefilling {cost.append_s:.2f}), and looking may take {share:.0%}"
        )


@dataclass(frozen=True)
class _Cost:
    """Seconds of converting, encoding and prefilling frames."""

    take_s: float
    encode_s: float
    append_s: float

    @property
    def total_s(self) -> float:
        return self.take_s + self.encode_s + self.append_s


class _Credit:
    """Seconds of work that may be done: they refill with time up to a limit, and may be overdrawn by one operation."""

    def __init__(self, clock: Callable[[], float]):
        self._clock, self._credit_s, self._at_s = clock, _MAX_CREDIT_S, clock()
        self._rate = 0.0

    def spend(self, seconds: float) -> None:
        self._refill()
        self._credit_s -= seconds

    def wait_s(self, rate: float) -> float:
        """Returns the seconds until there is credit, which refills at this rate in seconds per second from now on."""
        self._refill()
        self._rate = rate
        return max(0.0, -self._credit_s / rate)

    def _refill(self) -> None:
        now_s = self._clock()
        self._credit_s = min(_MAX_CREDIT_S, self._credit_s + self._rate * (now_s - self._at_s))
        self._at_s = now_s


class _Load:
    """Share of time that was spent on something, averaged over the last seconds."""

    def __init__(self, clock: Callable[[], float]):
        self._clock, self._share, self._at_s = clock, 0.0, clock()

    def add(self, seconds: float) -> None:
        self._share = self.share + seconds / _AVERAGE_S

    @property
    def share(self) -> float:
        now_s = self._clock()
        self._share *= max(0.0, 1 - (now_s - self._at_s) / _AVERAGE_S)
        self._at_s = now_s
        return self._share
