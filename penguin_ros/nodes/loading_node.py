"""A lifecycle node that loads what it needs on a thread of its own before it is configured.

rclpy runs transitions inside a service callback. Loading a model there would block the executor for many seconds: no
diagnostics, no answers, no reply to `ros2 lifecycle get`. This class loads first, while the executor continues, and
lets rclpy make the transition when the model is there.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.task import Future

from penguin_models.quoting import shortened
from penguin_ros.nodes.lasting_executor import ThrottledLog

T = TypeVar("T")


class LoadingLifecycleNode(LifecycleNode, Generic[T]):
    """Base class; `on_configure` gets what was loaded from `take_loaded`.

    Attributes:
        state: "unconfigured", "loading", "inactive", "active" or "finalized"; set it with `enter`.
    """

    def __init__(self, name: str, load: Callable[[], T], discard: Callable[[T], None], **options: Any):
        """Replaces rclpy's callback for transitions.

        Args:
            name: Name of the node.
            load: Loads the model; called on a thread of its own.
            discard: Frees a model whose node was shut down while it was loading.
            options: Options of rclpy's Node.
        """
        super().__init__(name, **options)
        self.state = "unconfigured"
        self._load, self._discard = load, discard
        self._refusals = ThrottledLog(self)
        self._loaded: T | Exception | None = None
        self._change_state = self._service_change_state.callback
        self._service_change_state.callback = self._on_change_state
        self._service_change_state.callback_group = ReentrantCallbackGroup()
        self._service_change_state.callback_group.add_entity(self._service_change_state)

    @abstractmethod
    def enter(self, state: str) -> None:
        """Called when the state changes; sets `state`."""

    async def start_automatically(self) -> bool:
        """Configures and activates the node; returns False if that failed."""
        await self._load_first()
        if self.state != "loading":  # it was shut down meanwhile
            return True
        success = TransitionCallbackReturn.SUCCESS
        return bool(self.trigger_configure() == success and self.trigger_activate() == success)

    def take_loaded(self) -> T:
        """Returns what was loaded, or raises the exception of loading; loads now if that was not done before."""
        loaded, self._loaded = self._loaded, None
        if isinstance(loaded, Exception):
            raise loaded
        return self._load() if loaded is None else loaded

    async def _on_change_state(
        self, request: ChangeState.Request, response: ChangeState.Response
    ) -> ChangeState.Response:
        wanted = request.transition
        is_loading = self.state == "loading" and _is_configure(wanted)
        if self.state == "unconfigured" and _is_configure(wanted):
            await self._load_first()
        if not is_loading and self._is_possible(wanted):  # if not, rclpy would raise, and ROS would log every refusal
            return self._change_state(request, response)
        text = f"transition {shortened(wanted.label) or wanted.id} refused in state {self.state}"
        self._refusals.warning(f"transition refused in state {self.state}", lambda: text)
        return response

    def _is_possible(self, wanted: Transition) -> bool:
        available = self._state_machine.available_transitions
        return any(wanted.label == label if wanted.label else wanted.id == id_ for id_, label, *_ in available)

    async def _load_first(self) -> None:
        executor, done = self.executor, Future(executor=self.executor)

        def load() -> None:
            try:
                loaded: T | Exception = self._load()
            except Exception as err:  # noqa: BLE001 - raised by on_configure, where the transition fails
                loaded = err
            executor.create_task(done.set_result, loaded)

        self.enter("loading")
        try:
            threading.Thread(target=load, name="model-loader", daemon=True).start()
        except RuntimeError as err:  # no memory for a thread
            done.set_result(err)
        loaded = await done
        if self.state == "loading":
            self._loaded = loaded
        elif not isinstance(loaded, Exception):
            self._discard(loaded)


def _is_configure(wanted: Transition) -> bool:
    return (wanted.label or wanted.id) in ("configure", Transition.TRANSITION_CONFIGURE)
