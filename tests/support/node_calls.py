"""What tests ask of a node through its services and topics; `robot` is the fixture of that name."""

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from penguin_vl.srv import Ask
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters

QUIET = {"caption__on_keyframe": False}


def ask(robot, node, question="What?", **fields):
    return robot.call(Ask, f"{node.name}/ask", Ask.Request(question=question, **fields)).answer


def statuses(robot, name):
    """Diagnostics of one name, the newest first, without the slash that names begin with."""
    return [s for message in reversed(robot.diagnostics) for s in message.status if s.name == name.lstrip("/")]


def seen(robot, node, images=1):
    """Waits until so many images have arrived: the status of the node's camera and its values."""

    def values():
        for status in statuses(robot, f"{node.name}: {node.topic}")[:1]:
            found = {item.key: item.value for item in status.values}
            if int(found.get("images", 0)) >= images:
                return status, found
        return None

    return robot.wait(values)


def change(robot, node, transition):
    request = ChangeState.Request(transition=Transition(id=transition))
    return robot.call(ChangeState, f"{node.name}/change_state", request).success


def set_parameter(robot, node, name, value):
    kinds = {bool: ("bool_value", 1), int: ("integer_value", 2), float: ("double_value", 3), str: ("string_value", 4)}
    field, kind = kinds[type(value)]
    parameter = Parameter(name=name, value=ParameterValue(**{"type": kind, field: value}))
    return robot.call(
        SetParameters, f"{node.name}/set_parameters", SetParameters.Request(parameters=[parameter])
    ).results[0]
