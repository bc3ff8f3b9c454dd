// Package proc has no code, only tests: the binaries as processes of their
// own, over a real Apache Kafka, with faults that the operating system gives
// (SIGKILL, SIGSTOP, a network that swallows).
//
// The tests need Java 17 and Maven, curl, and OpenSSH's client and server.
// Kafka itself is installed once into the user's cache folder.
package proc
