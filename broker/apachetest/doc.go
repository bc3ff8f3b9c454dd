// Package apachetest tries the real Kafka that package broker starts. It
// stands apart so that the quick tests, which need no Java, leave it out.
package apachetest
