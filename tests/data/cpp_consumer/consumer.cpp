// Fills a request, and finds the type support of a message, a service and an action as rclcpp does.

#include <iostream>

#include "penguin_vl/action/ask_stream.hpp"
#include "penguin_vl/srv/ask.hpp"
#include "rosidl_typesupport_cpp/action_type_support.hpp"
#include "rosidl_typesupport_cpp/message_type_support.hpp"
#include "rosidl_typesupport_cpp/service_type_support.hpp"

int main()
{
  penguin_vl::srv::Ask::Request request;
  request.question = "What?";
  const bool is_complete =
    rosidl_typesupport_cpp::get_message_type_support_handle<penguin_vl::msg::Answer>() &&
    rosidl_typesupport_cpp::get_service_type_support_handle<penguin_vl::srv::Ask>() &&
    rosidl_typesupport_cpp::get_action_type_support_handle<penguin_vl::action::AskStream>();
  std::cout << request.question << "\n";
  return is_complete ? 0 : 1;
}
