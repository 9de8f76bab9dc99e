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
        self._loaded: T | Exception | None = None
        self._change_state = self._service_change_state.callback
        self._service_change_state.callback = self._on_change_state
        self._service_change_state.callback_group = ReentrantCallbackGroup()
        self._service_change_state.callback_group.add_entity(self._service_change_state)

    @abstractmethod
    def enter(self, state: str) -> None:
        """Called when the state changes; sets `state`."""

    async def start_automatically(self) -> bool:
        """Configures and activates the node; returns whether it is active."""
        await self._load_first()
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
        configure = (wanted.label or wanted.id) in ("configure", Transition.TRANSITION_CONFIGURE)
        try:
            if configure and self.state == "loading":
                raise RuntimeError("the model is being loaded")
            if configure and self.state == "unconfigured":
                await self._load_first()
            return self._change_state(request, response)
        except RuntimeError as err:  # rclpy's, if the transition is not possible in this state
            self.get_logger().warning(f"transition {wanted.label or wanted.id} refused in state {self.state}: {err}")
            response.success = False
            return response

    async def _load_first(self) -> None:
        self.enter("loading")
        executor, done = self.executor, Future(executor=self.executor)

        def load() -> None:
            try:
                loaded: T | Exception = self._load()
            except Exception as err:  # noqa: BLE001 - raised by on_configure, where the transition fails
                loaded = err
            executor.create_task(done.set_result, loaded)

        threading.Thread(target=load, name="model-loader", daemon=True).start()
        loaded = await done
        if self.state == "loading":
            self._loaded = loaded
        elif not isinstance(loaded, Exception):
            self._discard(loaded)
