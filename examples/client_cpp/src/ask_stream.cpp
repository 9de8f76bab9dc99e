// Prints an answer while it is generated: ros2 run penguin_vl_client_cpp ask_stream "What is on the table?"

#include <chrono>
#include <iostream>
#include <memory>

#include "penguin_vl/action/ask_stream.hpp"
#include "rclcpp/rclcpp.hpp"
#include "rclcpp_action/rclcpp_action.hpp"

using penguin_vl::action::AskStream;
using penguin_vl::msg::Answer;
using namespace std::chrono_literals;

int main(int argc, char ** argv)
{
  const auto arguments = rclcpp::init_and_remove_ros_arguments(argc, argv);
  const auto node = rclcpp::Node::make_shared("ask_stream_client");
  const auto client = rclcpp_action::create_client<AskStream>(node, "penguin/ask_stream");
  if (!client->wait_for_action_server(10s)) {
    std::cerr << "no node serves penguin/ask_stream\n";
    return 1;
  }

  AskStream::Goal goal;
  goal.question = arguments.size() > 1 ? arguments[1] : "What do you see?";
  rclcpp_action::Client<AskStream>::SendGoalOptions options;
  options.feedback_callback = [](auto, const auto feedback) { std::cout << feedback->text << std::flush; };
  auto sent = client->async_send_goal(goal, options);
  if (rclcpp::spin_until_future_complete(node, sent, 10s) != rclcpp::FutureReturnCode::SUCCESS || !sent.get()) {
    std::cerr << "the node rejected the goal\n";
    return 1;
  }
  const auto handle = sent.get();
  auto finished = client->async_get_result(handle);
  if (rclcpp::spin_until_future_complete(node, finished, 60s) != rclcpp::FutureReturnCode::SUCCESS) {
    std::cerr << "\nno answer within 60 s\n";
    if (rclcpp::ok()) {  // not after Ctrl-C, which has shut the context down
      auto cancelled = client->async_cancel_goal(handle);
      rclcpp::spin_until_future_complete(node, cancelled, 5s);
    }
    return 1;
  }
  std::cout << "\n";
  const Answer answer = finished.get().result->answer;
  if (answer.error_code != Answer::ERROR_NONE) {
    std::cerr << "error " << answer.error_code << ": " << answer.error_msg << "\n";
    return 1;
  }
  std::cout << "answer: " << answer.text << "\n";  // feedback may arrive after the result
  return 0;
}
