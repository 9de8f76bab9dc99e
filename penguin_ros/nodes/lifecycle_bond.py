"""The bond with nav2's lifecycle manager, by which it notices that the node hangs or has died; needs bondpy.

As nav2's nodes do it (nav2_util::LifecycleNode): topic `bond`, the id is the node's name, from activation to
deactivation.
"""

from __future__ import annotations

import importlib
from typing import Any

from rclpy.duration import Duration
from rclpy.node import Node

from penguin_models.errors import SettingError

_FAREWELL = Duration(seconds=0.2)
_TIMEOUT_S = 4.0  # that of nav2's nodes, and the default of the manager's


class LifecycleBond:
    """The node's side of the bond."""

    def __init__(self, node: Node, period_s: float):
        """Forms the bond as soon as the other side is there.

        Args:
            node: The node.
            period_s: Seconds between heartbeats.

        Raises:
            SettingError: bondpy is not installed.
        """
        self._node, logger = node, node.get_logger()
        self._closed = False
        self._bond = _bond_type(period_s)(
            node,
            "bond",
            node.get_name(),
            on_formed=lambda: logger.info("bonded with the lifecycle manager"),
            on_broken=lambda: (
                self._closed or logger.warning("the bond with the lifecycle manager was not formed, or it was ended")
            ),
        )
        self._bond.set_heartbeat_timeout(_TIMEOUT_S)
        self._bond.set_heartbeat_period(period_s)
        self._bond.start()

    def close(self) -> None:
        """Breaks the bond, and tells the other side."""
        self._closed = True
        self._bond.break_bond()
        self._bond.pub.wait_for_all_acked(_FAREWELL)  # shutdown destroys the publisher at once
        self._bond.shutdown()
        self._node.destroy_subscription(self._bond.sub)  # shutdown leaves both in the node's lists
        self._node.destroy_publisher(self._bond.pub)


def check_bond(period_s: float) -> None:
    """Raises SettingError if a bond is wanted, that is the period is not 0, and bondpy is not installed."""
    if period_s:
        _bond_type(period_s)


def _bond_type(period_s: float) -> Any:
    try:
        bond: Any = importlib.import_module("bondpy.bondpy").Bond  # PyPI has another bondpy
    except ImportError as err:
        raise SettingError(
            f"bond_heartbeat_period is {period_s:g}, which needs the ROS package bondpy, and it is not installed: "
            "install ros-$ROS_DISTRO-bondpy, or set bond_heartbeat_period to 0"
        ) from err

    class Bond(bond):
        """As with nav2's nodes (`bond_disable_heartbeat_timeout`), only the manager ends a bond that was formed."""

        def _on_heartbeat_timeout(self) -> None:
            pass

    return Bond
