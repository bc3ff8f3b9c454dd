package bridge

import (
	"fmt"
	"regexp"
)

// Topics are the names of one controller's topics.
type Topics struct {
	Up       string // agent to controller
	Down     string // controller to agent
	Sessions string // presence, compacted
	Meta     string // the controller's heartbeat, compacted
}

// Topics returns the names of a controller's topics. The controller's name
// must be valid: see ValidController.
func (c *Client) Topics(controller string) Topics {
	p := c.cfg.Prefix + controller
	return Topics{Up: p + ".up", Down: p + ".down", Sessions: p + ".sessions", Meta: p + ".meta"}
}

// mostPrefix leaves room for the longest name of a controller and of its topics
// in the 249 bytes that Kafka gives a topic's name.
const mostPrefix = 249 - 63 - len(".sessions")

var topicPrefix = regexp.MustCompile(`^[a-zA-Z0-9._-]+$`)

// ValidPrefix refuses a prefix with which no topic could be named.
func ValidPrefix(prefix string) error {
	if !topicPrefix.MatchString(prefix) || len(prefix) > mostPrefix {
		return fmt.Errorf("bridge: prefix of topic names %q: want 1 to %d of a-z, A-Z, 0-9, dot, _ and -", prefix, mostPrefix)
	}
	return nil
}

// GatewaysTopic returns the name of the topic in which all gateways beat.
func (c *Client) GatewaysTopic() string { return c.cfg.Prefix + "gateways" }

var controllerName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// ValidController refuses a controller name that could not be part of topic
// names and of their access rules. A name has no dot, so that a rule for the
// prefix "moorage.NAME." covers exactly one controller.
func ValidController(name string) error {
	if !controllerName.MatchString(name) {
		return fmt.Errorf("bridge: controller name %q: want 1 to 63 of a-z, 0-9 and -, not beginning with -", name)
	}
	return nil
}
