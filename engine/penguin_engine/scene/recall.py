"""A question about more than the memory holds: the model looks again at episodes that help to answer it.

Episodes are found by the words of the question and spread over its time (recall_candidates.py). The model judges them
at the smallest size (recall_judge.py), and looks at the best (recall_ranking.py) in the prompt at full size, in order
of time, before the newest frames of the memory that lie in the window. A window within what the memory holds needs no
episodes.

To meet a deadline, fewer episodes are judged, then fewer are shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from penguin_engine.runtimes.base import Runtime
from penguin_engine.scene.answer import Answer, LapTimer
from penguin_engine.scene.episode import Episode, EpisodeFilter, Evidence
from penguin_engine.scene.episode_backend import EpisodeReader
from penguin_engine.scene.evidence import MARGIN, Candidate, Shown, choose, seconds_to_show
from penguin_engine.scene.generation import AnswerHooks
from penguin_engine.scene.memory import FrameMemory, HeldFrame
from penguin_engine.scene.multi_camera import answer_shown, ask_cameras, newest_last
from penguin_engine.scene.pace import Pace
from penguin_engine.scene.recall_candidates import Candidates, find_candidates
from penguin_engine.scene.recall_judge import Judge
from penguin_engine.scene.recall_ranking import Recalled, load, ranked
from penguin_engine.scene.remote.brain import RemoteQuestion
from penguin_engine.scene.requests import Request
from penguin_engine.scene.session import LONGEST_TIME, SceneSession, new_answer
from penguin_models.errors import EpisodeError, NoFramesError
from penguin_models.processor import Processor
from penguin_models.quoting import shortened

MAX_JUDGED = 32
"""Most episodes that the model judges for a question."""
MAX_SHOWN = 8
"""Most episodes in a prompt."""
MAX_RECENT = 4
"""Most frames of the memory after them, but the newest one of each camera in any case."""
_HELD_SHARE = 0.25
"""A memory, which thins out the past, is enough if it holds this share of the keyframes: episodes would show fewer."""


def reaches_beyond(request: Request, sessions: Mapping[str, SceneSession], has_episodes: bool) -> bool:
    """Returns whether a question is one for `ask_recall`.

    It is if it has a window of time, or if there are episodes and its horizon is longer than what the memory of one of
    its cameras holds. `ask_cameras` answers all others.
    """
    if request.has_window or not has_episodes or not request.horizon_s:
        return request.has_window
    since_ns = _since_ns(request, sessions)
    return since_ns is not None and not all(_holds(session.memory, since_ns) for session in sessions.values())


def ask_recall(
    runtime: Runtime | RemoteQuestion,
    processor: Processor,
    sessions: Mapping[str, SceneSession],
    reader: EpisodeReader | None,
    request: Request,
    hooks: AnswerHooks | None = None,
    pace: Pace | None = None,
    due_s: float = math.inf,
) -> Answer:
    """Answers a question about a window of time or beyond the memory; any other as `ask_cameras` does.

    Needs no worker: an evaluation fills sessions (`SceneSession.observe`) and a store (`EpisodeStore.add` with the name
    of the session's camera and the stamp of the frame, then `flush`), and calls it with a request that has
    `since_ns`/`until_ns`, or a `horizon_s` longer than the memory.

    Args:
        runtime: The runtime of the sessions, or the server that answers; it judges no episodes.
        processor: Processor of the same checkpoint.
        sessions: Session by camera name, at least one; episodes of other cameras are not looked at. A session may be
            empty: the question is then answered from episodes alone.
        reader: The episodes; None if there are none.
        request: The question. A horizon counts from the newest frame of any camera; if the memories hold all episodes
            that are found, they alone answer. A question with a horizon is never refused for lack of episodes.
        hooks: Callbacks for streamed text and cancellation. `on_token` is also called while episodes are judged.
        pace: The pace of the sessions; None if there are no deadlines.
        due_s: When the first token is due, on the clock of the pace.

    Returns:
        The answer. Its `evidence` holds the episodes in the prompt, `newest` the camera and the last frame (an
        episode's picture if the window ends before the memory begins), `start_ns` the stamp of the first frame, from
        which the times in the prompt count. `candidates_judged` and `candidates_left_out` count episodes that were
        found; `seconds["recall"]` is the time of finding and judging them.

    Raises:
        NoFramesError: There is neither a frame nor an episode in the window.
        EpisodeError: The window begins before the memory and there are no episodes, or they cannot be read.
        CancelledError: Cancelled before the prompt was complete.
        ContextLengthError: The frames of all cameras exceed the model's context.
    """
    hooks = hooks or AnswerHooks()
    if not reaches_beyond(request, sessions, reader is not None):
        return ask_cameras(runtime, processor, sessions, request, hooks, pace, due_s)
    where = EpisodeFilter(tuple(sessions), _since_ns(request, sessions), request.until_ns)
    recall = _Recall(runtime, processor, sessions, request, where, hooks, pace, due_s)
    if reader is None:
        recall.check_memory()
    elif not all(_holds(session.memory, where.since_ns) for session in sessions.values()):
        found = find_candidates(reader, request.question, where, MAX_JUDGED)
        if request.has_window or any(map(recall.was_left_out, found.episodes)):
            return recall.answer(reader, found)
        return ask_cameras(runtime, processor, sessions, request, hooks, pace, due_s)
    return recall.answer_from_memory()


class _Recall:
    """One question; see `ask_recall`."""

    def __init__(
        self,
        runtime: Runtime | RemoteQuestion,
        processor: Processor,
        sessions: Mapping[str, SceneSession],
        request: Request,
        where: EpisodeFilter,
        hooks: AnswerHooks,
        pace: Pace | None,
        due_s: float,
    ):
        self._runtime, self._processor, self._sessions, self._request = runtime, processor, sessions, request
        self._where, self._hooks, self._pace, self._due_s = where, hooks, pace, due_s
        self._timer = LapTimer(pace.clock) if pace else LapTimer()
        self._start_s = pace.clock() if pace else 0.0
        self._text_tokens = len(processor.encode_text(LONGEST_TIME))
        self._memory = next(iter(sessions.values())).memory  # its sizes apply to episodes as well
        self._budget = sum(session.memory.config.token_budget for session in sessions.values())

    def check_memory(self) -> None:
        """Raises EpisodeError if the window begins before everything that is in memory."""
        since_ns, memories = self._where.since_ns, [session.memory for session in self._sessions.values()]
        held = [memory.frames[0].stamp_ns for memory in memories if memory.frames]
        if since_ns is not None and held and since_ns < min(held):
            raise EpisodeError(
                f"since is {_seconds(since_ns)} s, but the memory reaches back to {_seconds(min(held))} s only, and "
                "there are no episodes: ask about a later time, or set episodes.path"
            )

    def was_left_out(self, episode: Episode) -> bool:
        """Returns whether an episode lies before what the memory of its camera holds, or in what it thinned out."""
        memory = self._sessions[episode.camera].memory
        start_ns = memory.frames[0].stamp_ns if memory.frames else episode.stamp_ns + 1
        return episode.stamp_ns < start_ns or not _holds(memory, start_ns)

    def answer_from_memory(self) -> Answer:
        """Answers from all frames in memory that lie in the window."""
        return self._show([item for name in self._sessions for item in self._held(name)], {})

    def answer(self, reader: EpisodeReader, found: Candidates) -> Answer:
        """Answers from episodes, and from the newest frames in memory that lie in the window."""
        recalled = [item for episode in found.episodes if (item := load(episode, self._memory)) is not None]
        judged = self._judge(recalled)
        best_first = ranked(reader, self._where, self._memory, recalled, judged, found.sightings)
        recent = self._recent()  # after judging, because frames have arrived meanwhile
        shown = {(item.camera, item.frame.stamp_ns) for item in recent}
        others = [item for item in best_first if (item.episode.camera, item.episode.stamp_ns) not in shown]
        best = self._resized(others[:MAX_SHOWN], self._budget - sum(item.frame.tokens for item in recent))
        candidates = [
            Candidate(item.frame, self._memory, item.episode.camera, required=not recent and not rank, rank=rank)
            for rank, item in enumerate(best)
        ]
        answer = self._show([*candidates, *recent], {item.frame: item for item in best})
        answer.candidates_judged, answer.candidates_left_out = judged, len(found.episodes) - judged
        return answer

    def _judge(self, recalled: Sequence[Recalled]) -> int:
        """Judges episodes, in turn as far as the time permits; returns how many."""
        if not recalled or isinstance(self._runtime, RemoteQuestion):
            return 0
        session = next(iter(self._sessions.values()))
        judge = Judge(self._processor, session, self._request.question, self._hooks)
        count, end_s = len(recalled), math.inf
        if self._pace is not None:
            count, end_s = self._time_to_judge(self._pace, judge, recalled)
        probabilities = judge.judge([item.frame for item in recalled[:count]], self._pace, end_s)
        for item, probability in zip(recalled, probabilities, strict=False):
            item.probability = probability
        return len(probabilities)

    def _time_to_judge(self, pace: Pace, judge: Judge, recalled: Sequence[Recalled]) -> tuple[int, float]:
        """Returns how many episodes to judge, and when that has to end so that the best can be shown in time."""
        first = recalled[0]
        question_s, picture_s = judge.cost_s(pace, first.frame)
        shown = min(len(recalled), MAX_SHOWN)
        candidates = [Candidate(first.frame, self._memory)] * shown + [item for item in self._recent() if item.required]
        showing_s = sum(seconds_to_show(pace, item, item.frame.size, self._text_tokens) for item in candidates)
        now_s = pace.clock()
        end_s = now_s + MARGIN * (self._due_s - now_s) - showing_s - pace.append_s(len(self._request.token_ids))
        fitting = (end_s - now_s - question_s) / max(picture_s, 1e-9)
        if fitting >= len(recalled):
            return len(recalled), end_s
        return (int(fitting) if fitting > shown else 0), end_s  # to judge those that are shown anyway helps little

    def _show(self, candidates: Sequence[Candidate], recalled: Mapping[HeldFrame, Recalled]) -> Answer:
        """Answers from some frames, of which those of `recalled` are pictures of episodes."""
        if not candidates:
            raise NoFramesError(f"there is no frame and no episode of {_names(self._sessions)} {_period(self._where)}")
        waited_s = self._pace.clock() - self._start_s if self._pace else 0.0
        question_tokens = len(self._request.token_ids)
        chosen, predicted_s = choose(self._pace, candidates, self._text_tokens, question_tokens, self._due_s)
        chosen = self._in_order(chosen)
        answer = new_answer([], chosen)
        answer.frames_pending = sum(item.frame not in recalled for item in candidates)
        answer.frames_pending -= sum(item.frame not in recalled for item in chosen)
        answer.predicted_s = waited_s + predicted_s
        looked = [recalled[item.frame] for item in chosen if item.frame in recalled]
        looked.sort(key=lambda item: item.episode.stamp_ns)
        answer.evidence = tuple(Evidence(item.episode, item.probability) for item in looked)
        answer.newest = chosen[-1].candidate.camera, chosen[-1].frame
        answer.seconds["recall"] = self._timer.lap()
        answer_shown(
            self._runtime, self._processor, self._sessions, chosen, self._request, self._hooks, self._timer, answer
        )
        return answer

    def _in_order(self, shown: Sequence[Shown]) -> list[Shown]:
        """Returns frames in the order of the prompt: by camera, the one with the newest frame last, then by time."""
        newest = {
            name: [item.frame.stamp_ns for item in shown if item.candidate.camera == name] for name in self._sessions
        }
        order = newest_last({name: max(stamps) for name, stamps in newest.items() if stamps})
        return sorted(shown, key=lambda item: (order.index(item.candidate.camera), item.frame.stamp_ns))

    def _held(self, camera: str) -> list[Candidate]:
        """Returns the frames of a camera in memory that lie in the window; an answer needs the newest."""
        memory = self._sessions[camera].memory
        frames = [frame for frame in memory.frames if _lies_in(frame.stamp_ns, self._where)]
        return [Candidate(frame, memory, camera, frame is frames[-1], MAX_SHOWN) for frame in frames]

    def _recent(self) -> list[Candidate]:
        """Returns the newest frames in memory that lie in the window: few, and at most about half of the budget."""
        held = [item for name in self._sessions for item in self._held(name)]
        recent = [item for item in held if item.required]
        tokens = sum(item.frame.tokens for item in recent)
        for item in sorted(held, key=lambda item: -item.frame.stamp_ns):
            if not item.required and len(recent) < MAX_RECENT and tokens + item.frame.tokens <= self._budget // 2:
                recent.append(item)
                tokens += item.frame.tokens
        return recent

    def _resized(self, recalled: Sequence[Recalled], room_tokens: int) -> Sequence[Recalled]:
        """Returns as many episodes as fit into the budget, at least one, at the largest size at which these fit."""
        memory = self._memory
        smallest = [min(map(memory.tokens_of, memory.ladder(item.frame.size))) for item in recalled]
        recalled = recalled[: max(1, room_tokens // max(smallest, default=1))]
        for item in recalled:
            item.frame.size = memory.shrunk(item.frame.size, room_tokens // len(recalled))
            item.frame.tokens = memory.tokens_of(item.frame.size)
        return recalled


def _since_ns(request: Request, sessions: Mapping[str, SceneSession]) -> int | None:
    """Returns the stamp of the first moment that a question looks at; None if there is no limit."""
    newest = [session.memory.frames[-1].stamp_ns for session in sessions.values() if session.memory.frames]
    if request.horizon_s and newest:
        return max(newest) - round(request.horizon_s * 1e9)
    return request.since_ns


def _holds(memory: FrameMemory, since_ns: int | None) -> bool:
    return since_ns is not None and memory.held_share(since_ns) >= _HELD_SHARE


def _lies_in(stamp_ns: int, where: EpisodeFilter) -> bool:
    return (where.since_ns is None or where.since_ns <= stamp_ns) and (
        where.until_ns is None or stamp_ns <= where.until_ns
    )


def _names(sessions: Mapping[str, SceneSession]) -> str:
    return shortened(", ".join(sessions))


def _period(where: EpisodeFilter) -> str:
    """Returns a window in words: "since 1.000 s until 2.000 s"."""
    ends = (("since", where.since_ns), ("until", where.until_ns))
    return " ".join(f"{word} {_seconds(stamp_ns)} s" for word, stamp_ns in ends if stamp_ns is not None)


def _seconds(stamp_ns: int) -> str:
    return f"{stamp_ns * 1e-9:.3f}"
