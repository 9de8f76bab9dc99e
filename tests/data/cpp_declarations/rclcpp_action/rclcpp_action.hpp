// Declarations of what the examples use of rclcpp_action (Jazzy).
#pragma once

#include <functional>

#include "rclcpp/rclcpp.hpp"

namespace rclcpp_action
{
template<typename ActionT>
struct ClientGoalHandle
{
  using SharedPtr = std::shared_ptr<ClientGoalHandle>;
  struct WrappedResult { typename ActionT::Result::SharedPtr result; };
};

template<typename ActionT>
struct Client
{
  using SharedPtr = std::shared_ptr<Client>;
  using GoalHandle = ClientGoalHandle<ActionT>;
  using Feedback = typename ActionT::Feedback;
  struct SendGoalOptions
  {
    std::function<void(typename GoalHandle::SharedPtr, const std::shared_ptr<const Feedback>)> feedback_callback;
  };

  bool wait_for_action_server(std::chrono::nanoseconds timeout);
  std::shared_future<typename GoalHandle::SharedPtr> async_send_goal(
    const typename ActionT::Goal & goal, const SendGoalOptions & options);
  std::shared_future<typename GoalHandle::WrappedResult> async_get_result(typename GoalHandle::SharedPtr goal);
  std::shared_future<void> async_cancel_goal(typename GoalHandle::SharedPtr goal);
};

template<typename ActionT>
typename Client<ActionT>::SharedPtr create_client(rclcpp::Node::SharedPtr node, const std::string & name);
}  // namespace rclcpp_action
