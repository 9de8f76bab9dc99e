// <AskYesNo question="..." service="/penguin/ask"/>: a condition on what the cameras see. Needs BehaviorTree.CPP 4.
//
// SUCCESS if the answer begins with "yes", FAILURE otherwise, also if there is no answer in time. An answer takes
// seconds, so this is a StatefulActionNode, RUNNING until then; a ConditionNode would block every other branch.

#include <cctype>
#include <chrono>
#include <memory>
#include <string>

#include "behaviortree_cpp/action_node.h"
#include "behaviortree_cpp/bt_factory.h"
#include "penguin_vl/srv/ask.hpp"
#include "rclcpp/rclcpp.hpp"

namespace penguin_vl_behavior_tree
{
using penguin_vl::srv::Ask;

bool begins_with_yes(const std::string & text)
{
  std::string word;
  for (const char letter : text) {
    if (std::isalpha(static_cast<unsigned char>(letter))) {
      word += static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
    } else if (!word.empty()) {
      break;
    }
  }
  return word == "yes";
}

class AskYesNo : public BT::StatefulActionNode
{
public:
  AskYesNo(const std::string & name, const BT::NodeConfig & config) : BT::StatefulActionNode(name, config)
  {
    node_ = config.blackboard->get<rclcpp::Node::SharedPtr>("node");  // as Nav2 and its tutorials store it
    group_ = node_->create_callback_group(rclcpp::CallbackGroupType::MutuallyExclusive, false);
    executor_.add_callback_group(group_, node_->get_node_base_interface());
    client_ = node_->create_client<Ask>(
      getInput<std::string>("service").value(), rclcpp::ServicesQoS(), group_);
  }

  static BT::PortsList providedPorts()
  {
    return {
      BT::InputPort<std::string>("question", "question to be answered with yes or no"),
      BT::InputPort<std::string>("service", "/penguin/ask", "ask service of the node"),
      BT::InputPort<double>("timeout_s", 30.0, "seconds after which the condition counts as not met"),
      BT::OutputPort<std::string>("answer", "text of the answer, or why there is none")};
  }

  BT::NodeStatus onStart() override
  {
    const auto question = getInput<std::string>("question");
    if (!question) {
      throw BT::RuntimeError("AskYesNo: ", question.error());
    }
    if (!client_->service_is_ready()) {
      return fail(std::string("no node serves ") + client_->get_service_name());
    }
    auto request = std::make_shared<Ask::Request>();
    request->question = *question + " Answer yes or no.";
    auto sent = client_->async_send_request(request);
    request_id_ = sent.request_id;
    response_ = sent.future.share();
    deadline_ = Clock::now() + std::chrono::duration_cast<Clock::duration>(
      std::chrono::duration<double>(getInput<double>("timeout_s").value()));
    return BT::NodeStatus::RUNNING;
  }

  BT::NodeStatus onRunning() override
  {
    executor_.spin_some();
    if (response_.wait_for(std::chrono::seconds(0)) != std::future_status::ready) {
      if (Clock::now() < deadline_) {
        return BT::NodeStatus::RUNNING;
      }
      onHalted();
      return fail("no answer in time");
    }
    const auto answer = response_.get()->answer;
    if (answer.error_code != answer.ERROR_NONE) {
      return fail(answer.error_msg);
    }
    setOutput("answer", answer.text);
    return begins_with_yes(answer.text) ? BT::NodeStatus::SUCCESS : BT::NodeStatus::FAILURE;
  }

  void onHalted() override { client_->remove_pending_request(request_id_); }

private:
  using Clock = std::chrono::steady_clock;

  BT::NodeStatus fail(const std::string & reason)
  {
    RCLCPP_WARN(node_->get_logger(), "%s: %s", name().c_str(), reason.c_str());
    setOutput("answer", reason);
    return BT::NodeStatus::FAILURE;
  }

  rclcpp::Node::SharedPtr node_;
  rclcpp::CallbackGroup::SharedPtr group_;
  rclcpp::executors::SingleThreadedExecutor executor_;
  rclcpp::Client<Ask>::SharedPtr client_;
  rclcpp::Client<Ask>::SharedFuture response_;
  int64_t request_id_ = 0;
  Clock::time_point deadline_;
};
}  // namespace penguin_vl_behavior_tree

BT_REGISTER_NODES(factory)
{
  factory.registerNodeType<penguin_vl_behavior_tree::AskYesNo>("AskYesNo");
}
