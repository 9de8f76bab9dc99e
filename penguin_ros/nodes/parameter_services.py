"""The parameter services: messages that are too long, or for which rclpy raises, are refused with a reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType, SetParametersResult
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    GetParameterTypes,
    ListParameters,
    SetParameters,
    SetParametersAtomically,
)
from rclpy.exceptions import ParameterException
from rclpy.parameter import Parameter
from rclpy.parameter_service import ParameterService

from penguin_models.quoting import shortened

Callback = Callable[[Any, Any], Any]
_MAX_IN_MESSAGE = 100
"""Maximum number of parameters in one message to a parameter service."""
LISTS = {
    SetParameters: "parameters",
    SetParametersAtomically: "parameters",
    GetParameters: "names",
    GetParameterTypes: "names",
    DescribeParameters: "names",
    ListParameters: "prefixes",
}
"""The field of each request that is a list, by type of service."""
_LAST_TYPE = ParameterType.PARAMETER_STRING_ARRAY


class ParameterServices(ParameterService):  # type: ignore[misc, unused-ignore]
    """The parameter services; a parameter that rclpy 7.1.5 raises for is refused instead."""

    def _set_parameters_callback(
        self, request: SetParameters.Request, response: SetParameters.Response
    ) -> SetParameters.Response:
        response.results = [self._set([message]) for message in request.parameters]
        return response

    def _set_parameters_atomically_callback(
        self, request: SetParametersAtomically.Request, response: SetParametersAtomically.Response
    ) -> SetParametersAtomically.Response:
        response.result = self._set(request.parameters)
        return response

    def _set(self, messages: Sequence[ParameterMessage]) -> SetParametersResult:
        for message in messages:
            if message.value.type > _LAST_TYPE:
                name = shortened(message.name)
                reason = f"{name} has type {message.value.type}; the types of parameters are 0 to {_LAST_TYPE}"
                return SetParametersResult(successful=False, reason=reason)
        parameters = [Parameter.from_parameter_msg(message) for message in messages]
        try:
            return self._get_node().set_parameters_atomically(parameters)
        except ParameterException as err:
            return SetParametersResult(successful=False, reason=shortened(str(err)))


def within_limit(srv_type: Any, callback: Callback) -> Callback:
    """Returns the callback of a parameter service that refuses messages with too many parameters."""
    return partial(_check, LISTS[srv_type], callback)


def _check(list_field: str, callback: Callback, request: Any, response: Any) -> Any:
    """Calls the callback, or refuses the message.

    A reply without results is how ROS refuses to read parameters; a refusal to set them has a reason.
    """
    length = len(getattr(request, list_field))
    if length <= _MAX_IN_MESSAGE:
        return callback(request, response)
    reason = f"the message has {length} parameters, the limit is {_MAX_IN_MESSAGE}; nothing was changed"
    refused = SetParametersResult(successful=False, reason=reason)
    if isinstance(response, SetParameters.Response):
        response.results = [refused] * length
    elif isinstance(response, SetParametersAtomically.Response):
        response.result = refused
    return response
