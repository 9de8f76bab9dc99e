// Declarations of what the examples use of BehaviorTree.CPP 4.
#pragma once

#include <cstdio>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>

namespace BT
{
enum class NodeStatus { IDLE, RUNNING, SUCCESS, FAILURE, SKIPPED };
struct PortInfo {};
using PortsList = std::unordered_map<std::string, PortInfo>;
struct RuntimeError : std::runtime_error
{
  template<typename ... T>
  explicit RuntimeError(const T & ... parts);
};

template<typename T>
struct Expected
{
  explicit operator bool() const;
  T & operator*() const;
  T value() const;
  const std::string & error() const;
};

struct Blackboard
{
  template<typename T>
  T get(const std::string & key);
};
struct NodeConfig { Blackboard * blackboard; };

template<typename T>
std::pair<std::string, PortInfo> InputPort(const std::string & name, const std::string & description);
template<typename T>
std::pair<std::string, PortInfo> InputPort(const std::string & name, const T & value, const std::string & description);
template<typename T>
std::pair<std::string, PortInfo> OutputPort(const std::string & name, const std::string & description);

struct StatefulActionNode
{
  StatefulActionNode(const std::string & name, const NodeConfig & config);
  virtual ~StatefulActionNode();
  virtual NodeStatus onStart() = 0;
  virtual NodeStatus onRunning() = 0;
  virtual void onHalted() = 0;
  const std::string & name() const;
  template<typename T>
  Expected<T> getInput(const std::string & port) const;
  template<typename T>
  void setOutput(const std::string & port, const T & value);
};
}  // namespace BT
