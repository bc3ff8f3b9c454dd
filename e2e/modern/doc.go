// Package modern has no code: its tests run the whole system between a
// controller and agents that speak modern Remoting, JNLP4-connect in its
// sorts and the WebSocket. The peers are those of standin, over real sockets.
//
// Most stories are told in one process, on an embedded broker; some with real
// processes and a real Kafka. With the build tag jenkins there are further
// ones, with a real agent.jar and a real Jenkins: docs/jenkins.md tells how.
package modern
