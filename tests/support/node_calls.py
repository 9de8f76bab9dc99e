"""Calls of a node's services and reads of its diagnostics, made through the fixture `robot`."""

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from penguin_vl.action import AskStream, Watch
from penguin_vl.srv import Ask
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters

NO_CAPTIONS = {"caption__on_keyframe": False}
"""Parameters for `start_node`."""


def ask(robot, node, question="What?", **fields):
    return robot.call(Ask, f"{node.name}/ask", Ask.Request(question=question, **fields)).answer


def stream(robot, node, question="What?", **fields):
    """Sends a question to `~/ask_stream`; returns the goal's handle, which collects feedback, when text arrives."""
    handle = _start(robot, node, AskStream, "ask_stream", question=question, **fields)
    robot.wait(lambda: handle.feedback)
    return handle


def start_watch(robot, node, condition="the door is open", **fields):
    """Sends a goal to `~/watch`; returns its handle, which collects feedback."""
    return _start(robot, node, Watch, "watch", condition=condition, **fields)


def _start(robot, node, kind, name, **fields):
    feedback, clients = [], node.__dict__.setdefault("action_clients", {})

    def on_feedback(message):
        feedback.append(message.feedback)
        robot.notify()

    if kind not in clients:
        clients[kind] = robot.action_client(kind, f"{node.name}/{name}")
    handle = robot.response(clients[kind].send_goal_async, kind.Goal(**fields), on_feedback)
    assert handle.accepted
    handle.feedback = feedback
    return handle


def result(robot, handle):
    """Waits for the result of a goal."""
    return robot.response(handle.get_result_async).result


def statuses(robot, name):
    """Returns the diagnostics published under a name, newest first; they carry no leading slash."""
    return [s for message in reversed(robot.diagnostics) for s in message.status if s.name == name.lstrip("/")]


def camera_status(robot, node, images=1):
    """Waits until the node has received `images` images; returns its camera's status and the values in it."""

    def values():
        for status in statuses(robot, f"{node.name}: {node.topic}")[:1]:
            found = {item.key: item.value for item in status.values}
            if int(found.get("images", 0)) >= images:
                return status, found
        return None

    return robot.wait(values)


def server_values(robot, node, **wanted):
    """Waits until the status of a node's server has some values, and returns it with all of them."""

    def found():
        for status in statuses(robot, f"{node.name}: server")[:1]:
            values = {item.key: item.value for item in status.values}
            if all(values[key.replace("_", " ")] == value for key, value in wanted.items()):
                return status, values
        return None

    return robot.wait(found)


def change_state(robot, node, transition):
    """Requests a lifecycle transition and returns whether it succeeded."""
    request = ChangeState.Request(transition=Transition(id=transition))
    return robot.call(ChangeState, f"{node.name}/change_state", request).success


def set_parameter(robot, node, name, value):
    kinds = {bool: ("bool_value", 1), int: ("integer_value", 2), float: ("double_value", 3), str: ("string_value", 4),
             list: ("string_array_value", 9)}  # fmt: skip
    field, kind = kinds[type(value)]
    parameter = Parameter(name=name, value=ParameterValue(**{"type": kind, field: value}))
    return robot.call(
        SetParameters, f"{node.name}/set_parameters", SetParameters.Request(parameters=[parameter])
    ).results[0]
