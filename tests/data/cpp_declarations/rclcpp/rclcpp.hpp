// Declarations of what the examples use of rclcpp (Jazzy), so that a test can compile them where rclcpp is missing.
#pragma once

#include <chrono>
#include <cstdint>
#include <future>
#include <memory>
#include <string>
#include <vector>

#define RCLCPP_WARN(logger, ...) static_cast<void>(logger), static_cast<void>(sizeof(std::printf(__VA_ARGS__)))

namespace rclcpp
{
enum class FutureReturnCode { SUCCESS, INTERRUPTED, TIMEOUT };
enum class CallbackGroupType { MutuallyExclusive, Reentrant };
struct Logger {};
struct QoS {};
struct ServicesQoS : QoS {};
struct CallbackGroup { using SharedPtr = std::shared_ptr<CallbackGroup>; };
struct NodeBaseInterface { using SharedPtr = std::shared_ptr<NodeBaseInterface>; };

template<typename ServiceT>
struct Client
{
  using SharedPtr = std::shared_ptr<Client>;
  using SharedResponse = typename ServiceT::Response::SharedPtr;
  using SharedFuture = std::shared_future<SharedResponse>;
  struct FutureAndRequestId
  {
    std::future<SharedResponse> future;
    int64_t request_id;
    SharedResponse get();
  };

  bool wait_for_service(std::chrono::nanoseconds timeout);
  bool service_is_ready() const;
  const char * get_service_name() const;
  FutureAndRequestId async_send_request(typename ServiceT::Request::SharedPtr request);
  bool remove_pending_request(int64_t request_id);
};

struct Node
{
  using SharedPtr = std::shared_ptr<Node>;
  static SharedPtr make_shared(const std::string & name);
  template<typename ServiceT>
  typename Client<ServiceT>::SharedPtr create_client(
    const std::string & name, const QoS & qos = ServicesQoS(), CallbackGroup::SharedPtr group = nullptr);
  CallbackGroup::SharedPtr create_callback_group(CallbackGroupType type, bool automatically_add_to_executor = true);
  NodeBaseInterface::SharedPtr get_node_base_interface();
  Logger get_logger() const;
};

namespace executors
{
struct SingleThreadedExecutor
{
  void add_callback_group(CallbackGroup::SharedPtr group, NodeBaseInterface::SharedPtr node);
  void spin_some();
};
}  // namespace executors

std::vector<std::string> init_and_remove_ros_arguments(int argc, char const * const * argv);
bool ok();
template<typename FutureT>
FutureReturnCode spin_until_future_complete(Node::SharedPtr node, const FutureT & future, std::chrono::nanoseconds timeout);
}  // namespace rclcpp
