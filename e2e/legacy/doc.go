// Package legacy has no code, only tests: real Hudson controllers and their
// real agents, each on a host of its own (a network namespace), building over
// the binaries and a real Apache Kafka while links break, gateways die and
// brokers fail over.
//
// The tests need Linux, Java 17, Maven and iproute2, and either root or the
// right to make user namespaces. What Maven brings is kept in the user's cache
// folder. Nothing of the network is the machine's own: the test binary moves
// into a namespace before its first test, and all there is goes with it.
package legacy
