// Package demo runs the whole system in one process, breaks it on purpose,
// and lets an independent checker judge what its users saw.
//
// The brokers are the embedded ones (in memory), the network is a fabric;
// gateways, controller and agent sides are the real ones. The simulation of
// the tests is the same world in a testing/synctest bubble.
package demo
