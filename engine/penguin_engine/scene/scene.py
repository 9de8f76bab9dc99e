"""Scene: what all pieces of the worker's work share, and how frames get into the memories.

Everything is called from the worker's thread. Knows nothing of ROS; a listener learns what happens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import InitVar, dataclass, field, replace
from time import monotonic

from penguin_engine.runtimes.base import Runtime
from penguin_engine.scene.camera_state import CameraState, CaptionConfig
from penguin_engine.scene.conversations import Conversations
from penguin_engine.scene.episode_backend import EpisodeReader
from penguin_engine.scene.generation import AnswerHooks
from penguin_engine.scene.listener import Listener
from penguin_engine.scene.mailbox import LoadFrame
from penguin_engine.scene.object_position import ObjectPosition
from penguin_engine.scene.pace import Pace
from penguin_engine.scene.remote.brain import RemoteBrain
from penguin_engine.scene.requests import Outcome, RequestQueue
from penguin_engine.scene.watches import Watches
from penguin_models.errors import MediaError
from penguin_models.processor import Processor
from penguin_models.types import Frame, FrameKind


@dataclass(eq=False)
class Scene:
    """The cameras, and what answers questions about them."""

    runtime: Runtime  # runs the model
    processor: Processor  # of the same checkpoint
    states: InitVar[Iterable[CameraState]]  # one of each camera
    caption: CaptionConfig  # when captions are made
    queue: RequestQueue  # its owner opens and closes it; frames are taken only while it is open
    listener: Listener  # learns of frames, captions, answers and failures
    clock: Callable[[], float] = monotonic  # in seconds
    pace: Pace | None = None  # that of the sessions; None if nothing is bounded
    episodes: EpisodeReader | None = None  # what answers to questions beyond the memory are based on
    watches: Watches = field(default_factory=Watches)  # what is watched for; its owner opens and closes it
    locate: Callable[[Outcome], Sequence[ObjectPosition | None]] = lambda outcome: ()  # finds objects in space
    remote: RemoteBrain | None = None  # the server that answers; None if only the runtime does
    camera_states: dict[str, CameraState] = field(init=False)  # by name of the camera
    conversations: Conversations = field(init=False)  # the earlier turns of questions
    captions_preempted: int = field(default=0, init=False)  # captions that a question cut short

    def __post_init__(self, states: Iterable[CameraState]) -> None:
        """Prepares for the first frame."""
        self.camera_states = {state.camera: state for state in states}
        self.conversations = Conversations(self.processor)
        self._clear = False
        self._frame_changes: deque[Callable[[], None]] = deque()

    @property
    def server(self) -> RemoteBrain | None:
        """The server, while it is the one that answers."""
        return self.remote if self.remote is not None and self.remote.in_charge else None

    @property
    def is_wanted(self) -> bool:
        """Whether work that nobody waits for has to end."""
        return len(self.queue) > 0 or self.queue.closed

    @property
    def unasked_hooks(self) -> AnswerHooks:
        """The hooks of answers that nobody waits for."""
        return AnswerHooks(cancelled=lambda: self.is_wanted, on_token=self.take_frames)

    def rest_s(self, pace: Pace) -> float:
        """Returns the seconds until work on frames may go on, 0 for now."""
        return pace.rest_s(self.caption.wanted, len(self.watches) > 0)

    def take_frames(self, all_waiting: bool = False) -> None:
        """Moves waiting frames into the memories: those that are due at the pace, or all."""
        while self._frame_changes:
            self.guarded("changing settings", self._frame_changes.popleft())
        if self._clear:
            self._clear = False
            self.conversations.clear()
            for state in self.camera_states.values():
                state.session.memory.clear()
                state.failure = None
                self.listener.on_memory(state)
        for state in self.camera_states.values():
            if not all_waiting and self.pace is not None and self.pace.frame_due_s(state.camera):
                continue
            load = state.mailbox.take()
            if load is None:
                continue
            try:
                self._take(state, load)
                self.listener.on_memory(state)
            except MediaError as err:
                state.cannot_read(err)
                self.listener.on_bad_frame(state)
            except Exception as err:  # noqa: BLE001 - not the fault of the question that may be running
                self.listener.on_failure(f"taking a frame of {state.camera}", err)

    def _take(self, state: CameraState, load: LoadFrame) -> None:
        if self.pace is None:
            self._observe(state, load())
            return
        start_s = self.clock()
        try:
            self._take_paced(state, load, self.pace)
        finally:  # an image that cannot be read takes time, too
            self.pace.took(state.camera, self.clock() - start_s)

    def _take_paced(self, state: CameraState, load: LoadFrame, pace: Pace) -> None:
        frame = load()
        state.source_size = frame.size
        seen = [state.source for state in self.camera_states.values() if state.source_size is not None]
        memory = state.session.memory
        shared = self.caption.wanted, len(self.watches) > 0
        if self.server is not None:
            changed = pace.release()
        else:
            changed = pace.adapt(seen, state.mailbox.period_s, memory.config.floor_tokens, *shared)
        if changed:
            for other in self.camera_states.values():
                other.session.memory.arrival_tokens = pace.arrival_tokens
            self.listener.on_pace(pace)
        self._observe(state, frame)

    def _observe(self, state: CameraState, frame: Frame) -> None:
        if state.observe(frame) == FrameKind.KEY:
            self.listener.on_keyframe(frame)

    def prefill(self, state: CameraState) -> None:
        """Encodes and prefills the next few frames of a camera."""
        start_s = self.clock()
        state.session.prefill_pending(lambda: len(self.queue) > 0)
        if self.pace is not None:
            self.pace.looked(self.clock() - start_s)

    def located(self, outcome: Outcome) -> Outcome:
        """Returns an outcome with the positions of its objects."""
        try:
            return replace(outcome, positions=self.locate(outcome))
        except Exception as err:  # noqa: BLE001 - an answer without positions is better than none
            self.listener.on_failure("locating objects", err)
            return outcome

    def guarded(self, doing: str, work: Callable[[], object], state: CameraState | None = None) -> None:
        """Does work that nobody waits for; an error is reported, and the camera's session starts over."""
        try:
            work()
        except Exception as err:  # noqa: BLE001 - the node outlives any one piece of work
            if state is not None:
                state.session.reset()
                state.failure = err
            self.listener.on_failure(doing, err)
