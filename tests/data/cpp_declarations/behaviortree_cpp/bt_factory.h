// Declarations of what the examples use of BehaviorTree.CPP 4.
#pragma once

#define BT_REGISTER_NODES(factory) void register_nodes(BT::BehaviorTreeFactory & factory)

namespace BT
{
struct BehaviorTreeFactory
{
  template<typename T>
  void registerNodeType(const std::string & id);
};
}  // namespace BT
