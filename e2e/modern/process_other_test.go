//go:build !linux

package modern_test

const agentWord = "stand-in-agent"

func runAgent([]string) int { return 2 }
