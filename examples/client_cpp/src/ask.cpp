// Asks the node a question and prints the answer: ros2 run penguin_vl_client_cpp ask "Where is the red mug?"

#include <chrono>
#include <iostream>
#include <memory>

#include "penguin_vl/srv/ask.hpp"
#include "rclcpp/rclcpp.hpp"

using penguin_vl::msg::Answer;
using penguin_vl::srv::Ask;
using namespace std::chrono_literals;

int main(int argc, char ** argv)
{
  const auto arguments = rclcpp::init_and_remove_ros_arguments(argc, argv);
  const auto node = rclcpp::Node::make_shared("ask_client");
  const auto client = node->create_client<Ask>("penguin/ask");
  if (!client->wait_for_service(10s)) {
    std::cerr << "no node serves " << client->get_service_name() << "\n";
    return 1;
  }

  auto request = std::make_shared<Ask::Request>();
  request->question = arguments.size() > 1 ? arguments[1] : "What do you see?";
  auto future = client->async_send_request(request);
  if (rclcpp::spin_until_future_complete(node, future, 60s) != rclcpp::FutureReturnCode::SUCCESS) {
    std::cerr << "no answer within 60 s\n";
    return 1;
  }

  const Answer answer = future.get()->answer;
  if (answer.error_code != Answer::ERROR_NONE) {
    std::cerr << "error " << answer.error_code << ": " << answer.error_msg << "\n";
    return 1;
  }
  std::cout << answer.text << "\n";
  for (const auto & box : answer.objects) {
    std::cout << "  " << box.label << ": x " << box.x_min_px << "-" << box.x_max_px << ", y " << box.y_min_px << "-"
              << box.y_max_px << " px\n";
  }
  return 0;
}
