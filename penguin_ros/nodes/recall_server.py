"""`~/recall`: finds episodes without the model, on a thread of its own, also while an answer is generated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from penguin_vl.msg import Answer
from penguin_vl.srv import Recall
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node

from penguin_engine.scene.episode import EpisodeFilter, Place
from penguin_engine.scene.episode_backend import EpisodeReader
from penguin_engine.scene.requests import MAX_QUESTION_CHARS, check_window
from penguin_models.errors import BusyError, PromptError, SettingError
from penguin_ros.convert import episode_messages, stamp_to_ns
from penguin_ros.nodes.ask_server import explain, finished
from penguin_ros.nodes.context import REQUEST_QOS
from penguin_ros.nodes.outputs import trace_of

MAX_EPISODES, DEFAULT_EPISODES = 100, 10
_MAX_WAITING = 16
_MAX_THUMBNAIL_BYTES = 4_000_000


class RecallServer:
    """The service of a node, in every lifecycle state."""

    def __init__(
        self,
        node: Node,
        reader: Callable[[], EpisodeReader],
        cameras: Callable[[Sequence[str]], Sequence[str]],
        fixed_frame: Callable[[], str],
    ):
        """Creates the service.

        Args:
            node: The node.
            reader: Returns the episodes, or raises why there are none.
            cameras: Returns the full names of cameras, or raises UnknownCameraError.
            fixed_frame: Returns the frame of poses.
        """
        self._node, self._reader, self._cameras, self._fixed_frame = node, reader, cameras, fixed_frame
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1, "recall")
        group = ReentrantCallbackGroup()  # other callbacks must run while a coroutine waits
        node.create_service(Recall, "~/recall", self._on_recall, callback_group=group, qos_profile=REQUEST_QOS)

    def destroy(self) -> None:
        """Ends the thread after its search; the service is destroyed with the node."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _on_recall(self, request: Recall.Request, response: Recall.Response) -> Recall.Response:
        self._waiting += 1
        try:
            where, limit = self._query(request)
            reader = self._reader()
            if self._waiting > _MAX_WAITING:
                raise BusyError(
                    f"{self._waiting - 1} searches are waiting, the limit is {_MAX_WAITING}; try again later"
                )
            search = self._thread.submit(reader.search, request.text, where, limit)
            await finished(self._node, search)
            response.episodes, response.thumbnails_omitted = episode_messages(search.result(), _MAX_THUMBNAIL_BYTES)
        except Exception as err:  # noqa: BLE001 - the client gets the reason, and the node continues
            response.error_code, response.error_msg = explain(err)
            if response.error_code == Answer.ERROR_INTERNAL:
                self._node.get_logger().error(f"a search failed: {response.error_msg}{trace_of(err)}")
        finally:
            self._waiting -= 1
        return response

    def _query(self, request: Recall.Request) -> tuple[EpisodeFilter, int]:
        """Returns the conditions and the limit of a request.

        Raises:
            PromptError, SettingError: A value is out of range.
            UnknownCameraError: A camera is not configured.
        """
        if len(request.text) > MAX_QUESTION_CHARS:
            length = len(request.text)
            raise PromptError(f"text has {length} characters, the limit is {MAX_QUESTION_CHARS}; shorten it")
        if not request.limit <= MAX_EPISODES:
            raise PromptError(f"limit is {request.limit}, it must be at most {MAX_EPISODES}; narrow the search")
        if not all(any(map(str.isalnum, label)) for label in request.objects):
            raise PromptError("a label in objects has no letters; leave objects empty for any")
        since_ns, until_ns = stamp_to_ns(request.since) or None, stamp_to_ns(request.until) or None
        check_window(since_ns, until_ns)
        cameras, objects = self._cameras(request.cameras), tuple(request.objects)
        where = EpisodeFilter(tuple(cameras), since_ns, until_ns, objects, self._place(request))
        return where, request.limit or DEFAULT_EPISODES

    def _place(self, request: Recall.Request) -> Place | None:
        point = request.place
        if request.radius_m == 0:
            if request.place_frame_id or (point.x, point.y, point.z) != (0.0, 0.0, 0.0):
                raise SettingError("a place is given, and radius_m is 0, which is any place; set it above 0")
            return None
        if not request.radius_m > 0:
            raise SettingError(f"radius_m is {request.radius_m}, it must be above 0, or 0 for any place")
        return Place(request.place_frame_id or self._fixed_frame(), (point.x, point.y, point.z), request.radius_m)
