"""`~/watch`: goals become watches of the worker, its judgements feedback; `~/alerts` repeats what was noticed.

The callbacks are coroutines: they wait for the worker without blocking the executor.
"""

from __future__ import annotations

from collections.abc import Callable

from penguin_vl.action import Watch
from penguin_vl.msg import Alert, Answer
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSDurabilityPolicy, QoSProfile

from penguin_engine.scene.watches import Judgement, PendingWatch, Watches, WatchRequest
from penguin_engine.scene.worker import SceneWorker
from penguin_models.errors import CancelledError
from penguin_ros.convert import alert_message
from penguin_ros.nodes.ask_server import explain, finished
from penguin_ros.nodes.goals import Goals
from penguin_ros.nodes.outputs import trace_of

_ALERTS_QOS = QoSProfile(depth=10, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)


class WatchServer:
    """The action of a node, in every lifecycle state, and its latched topic, while the node is active.

    Attributes:
        waiting: Number of goals without a result.
    """

    def __init__(
        self,
        node: LifecycleNode,
        watches: Watches,
        worker: Callable[[], SceneWorker],
        camera_name: Callable[[str], str],
    ):
        """Creates the action server and the publisher.

        Args:
            node: The node.
            watches: The node's watches; refuse goals unless it is active.
            worker: Returns the worker of an active node.
            camera_name: Returns the full name of an image topic, or raises UnknownCameraError.
        """
        self.waiting = 0
        self._node, self._watches, self._worker, self._camera_name = node, watches, worker, camera_name
        self._alerts = node.create_lifecycle_publisher(Alert, "~/alerts", _ALERTS_QOS)
        group = ReentrantCallbackGroup()  # other callbacks must run while a coroutine waits
        self._goals = Goals(node, Watch, "~/watch", self._on_goal, self._cancel, group)

    def destroy(self) -> None:
        """Destroys the action server; the publisher is destroyed with the node."""
        self._goals.destroy()

    async def _on_goal(self, goal: ServerGoalHandle) -> Watch.Result:
        """Watches until the condition has held, and returns the alert or why there is none, whatever happens."""
        self.waiting += 1
        result, watch = Watch.Result(alert=Alert(condition=goal.request.condition)), None
        try:
            watch = self._begin(goal)
            self._goals.begin(goal, watch)
            await finished(self._node, watch.result)
            result.alert = alert_message(watch.result.result(), with_picture=True)
            self._alerts.publish(result.alert)
        except Exception as err:  # noqa: BLE001 - the client gets the reason, and the node continues
            result.error_code, result.error_msg = explain(err)
            if result.error_code == Answer.ERROR_INTERNAL:
                self._node.get_logger().error(f"a watch failed: {result.error_msg}{trace_of(err)}")
            if watch is not None and watch.newest is not None:
                result.alert = alert_message(watch.newest, with_picture=True)
        finally:
            self.waiting -= 1
        if watch is not None and watch.newest is not None:
            result.judged = watch.newest.judged
        code = result.error_code
        self._goals.end(goal, code == Answer.ERROR_NONE, code == Answer.ERROR_CANCELLED)
        return result

    def _begin(self, goal: ServerGoalHandle) -> PendingWatch:
        self._watches.check()
        worker = self._worker()
        wanted: Watch.Goal = goal.request
        request = WatchRequest.prepare(
            worker.processor,
            wanted.condition,
            wanted.cameras or list(worker.camera_states),
            self._camera_name,
            wanted.period_s,
            wanted.threshold,
            wanted.hold_s,
        )

        def on_judgement(judgement: Judgement) -> None:
            alert = alert_message(judgement, with_picture=False)
            goal.publish_feedback(Watch.Feedback(alert=alert, holds=judgement.holds, judged=judgement.judged))

        watch = worker.watch(request, on_judgement)
        if not self._watches.calibration.samples:
            self._node.get_logger().warning(
                "the model's judgements are not calibrated: fit them with penguin-vl evaluate watch --fit", once=True
            )
        return watch

    def _cancel(self, watch: PendingWatch) -> None:
        self._watches.end(watch, CancelledError("cancelled before the condition had held for long enough"))
