"""Locator: where the objects of captions and answers are, for the cameras with depth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.node import Node

from penguin_engine.scene.mailbox import LoadFrame
from penguin_engine.scene.object_position import ObjectPosition
from penguin_engine.scene.requests import Outcome
from penguin_models.errors import MediaError, SettingError
from penguin_models.quoting import shortened
from penguin_ros.nodes.camera_poses import CameraPoses
from penguin_ros.nodes.depth_camera import DepthCamera
from penguin_ros.nodes.diagnostics import Health
from penguin_ros.nodes.node_time import NodeTime
from penguin_ros.settings import NodeSettings


class Locator:
    """Finds positions while the node is active. `positions` is called by the worker, the rest by the executor."""

    def __init__(self, node: Node, settings: NodeSettings, time: NodeTime):
        """Subscribes to TF if positions are wanted in another frame.

        Raises:
            SettingError: They are, and tf2_ros is not installed.
        """
        self._node, self._time, self._topics = node, time, settings.depth_cameras
        self._cameras: dict[str, DepthCamera] = {}
        self._poses: CameraPoses | None = None
        if settings["target_frame"]:
            try:
                self._poses = CameraPoses(node, settings["target_frame"])
            except SettingError as err:
                raise SettingError(
                    f"target_frame is {settings['target_frame']!r}, but {err}: install it, or leave target_frame empty "
                    "for positions in the camera's frame"
                ) from err

    def open(self) -> None:
        """Subscribes to depth and CameraInfo."""
        cameras = [DepthCamera(self._node, *topics, self._time) for topics in self._topics]
        self._cameras = {camera.image: camera for camera in cameras}

    def follow_graph(self) -> None:
        """Follows publishers that have changed."""
        for camera in self._cameras.values():
            camera.follow_graph()

    def close(self) -> None:
        """Unsubscribes from depth and CameraInfo."""
        for camera in self._cameras.values():
            camera.close()
        self._cameras = {}

    def destroy(self) -> None:
        """Unsubscribes from everything."""
        self.close()
        if self._poses is not None:
            self._poses.close()

    def keeping_depth(self, offer: Callable[[str, int, LoadFrame], bool]) -> Callable[[str, int, LoadFrame], None]:
        """Returns a function that offers a frame, and keeps the depth image of one that is accepted."""

        def offer_and_keep(camera: str, stamp_ns: int, load: LoadFrame) -> None:
            if offer(camera, stamp_ns, load) and camera in self._cameras:
                self._cameras[camera].keep_for(stamp_ns)

        return offer_and_keep

    def positions(self, outcome: Outcome) -> Sequence[ObjectPosition | None]:
        """Returns the position of each object of an answer or caption, None where it is unknown."""
        camera, objects = self._cameras.get(outcome.camera), outcome.answer.grounding.objects
        if camera is None or not objects or outcome.frame.header is None:  # pictures of episodes have no header
            return ()
        camera.problem = ""
        try:
            found = self._in_target_frame(camera.locate(outcome.frame, objects), outcome)
        except MediaError as err:
            camera.problem, found = str(err), [None] * len(objects)
        camera.unknown += found.count(None)
        camera.known += len(found) - found.count(None)
        return found

    def _in_target_frame(self, found: list[ObjectPosition | None], outcome: Outcome) -> list[ObjectPosition | None]:
        if self._poses is None:
            return found
        pose = self._poses.at(outcome.frame.header.frame_id, outcome.frame.stamp_ns)
        if pose is None:
            raise MediaError(f"TF: {self._poses.reason}")
        return [item and item.seen_from(pose) for item in found]

    def statuses(self, name: str) -> Iterator[DiagnosticStatus]:
        """Yields for each camera how many positions are known, and why others are not."""
        for camera in self._cameras.values():
            health = Health()
            reason = camera.silence() or camera.problem
            health.warn_if(bool(reason), f"positions are unknown: {shortened(reason)}")
            values = {"positions found": camera.known, "positions unknown": camera.unknown}
            yield health.status(f"{name}: {camera.image}: depth", camera.image, values)
