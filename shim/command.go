package shim

import (
	"errors"
	"net"
	"net/url"
	"slices"
	"strings"
)

// ErrNoAddress reports a command line in which nothing could be made to lead
// to the door.
var ErrNoAddress = errors.New("nothing in the agent's command line leads to the door: give it -url, -jnlpUrl, -direct or -tunnel, " +
	"or write {door}, {door.host}, {door.port} or {door.url} where the address belongs")

// A Command is an agent's command line that leads to a door.
type Command struct {
	Args   []string
	Secret string // the agent's secret, where it stood in the command line itself; "": it did not
	File   string // the file that the command line names for it instead; "": none
	JNLP   string // the address at the door of the .jnlp file that the agent begins by asking for; "": of none
	secret int    // where in Args the secret stands; 0: nowhere
}

// Lead returns the command line of an agent with the addresses of its
// controller replaced by the door's.
//
// The door's root stands for the controller's root, whatever path it has:
// -url becomes the door's root, and of a -jnlpUrl what follows the root is
// kept. -direct and -tunnel become the door's address. Everywhere else {door}
// and its parts are replaced, within words too.
func Lead(args []string, door net.Addr) (Command, error) {
	host, port, err := net.SplitHostPort(door.String())
	if err != nil {
		return Command{}, err
	}
	root := "http://" + door.String() + "/"
	marks := strings.NewReplacer("{door}", door.String(), "{door.host}", host, "{door.port}", port, "{door.url}", root)
	c := Command{Args: slices.Clone(args)}
	leads := false
	for i := 0; i < len(c.Args); i++ {
		name, value, joined := strings.Cut(c.Args[i], "=")
		if !joined {
			if i+1 < len(c.Args) {
				value = c.Args[i+1]
			} else {
				name = "" // an option without a value is the agent's to complain of
			}
		}
		switch name {
		case "-url":
			value = root
		case "-jnlpUrl":
			value = atDoor(value, root)
			c.JNLP = value
		case "-direct", "-directConnection", "-tunnel":
			value = door.String()
		case "-secret":
			switch file, isFile := strings.CutPrefix(value, "@"); {
			case isFile:
				c.File = file
			case !joined:
				c.Secret, c.secret = value, i+1
			}
			if !joined {
				i++
			}
			continue
		default:
			replaced := marks.Replace(c.Args[i])
			leads = leads || replaced != c.Args[i]
			c.Args[i] = replaced
			continue
		}
		leads = true
		if joined {
			c.Args[i] = name + "=" + value
		} else {
			i++
			c.Args[i] = value
		}
	}
	if !leads {
		return Command{}, ErrNoAddress
	}
	if c.JNLP != "" && (c.secret > 0 || c.File != "") {
		c.JNLP += "?encrypt=true" // as an agent that is given its secret asks
	}
	return c, nil
}

// HideSecret has the command line name a file that holds the secret. Agents
// read it from there since args4j, which reads their options, expands @FILE:
// for ten years. What takes the secret without an option, as
// hudson.remoting.jnlp.Main does, is left alone.
func (c *Command) HideSecret(file string) { c.Args[c.secret] = "@" + file }

// atDoor returns the place at the door of a controller's file for an agent.
// What stands before computer/NAME/FILE is the controller's own path.
func atDoor(jnlpURL, root string) string {
	u, err := url.Parse(jnlpURL)
	if err != nil {
		return root
	}
	path := strings.Split(strings.TrimPrefix(u.EscapedPath(), "/"), "/")
	if n := len(path) - 3; n > 0 && path[n] == "computer" {
		path = path[n:]
	}
	at := root + strings.Join(path, "/")
	if u.RawQuery != "" {
		at += "?" + u.RawQuery
	}
	return at
}

// childEnv returns the environment for an agent whose controller is at a
// loopback address: where there is an HTTP proxy, agents would go through it.
func childEnv(env []string, host string) []string {
	proxied := slices.ContainsFunc(env, func(v string) bool {
		name, value, _ := strings.Cut(v, "=")
		return value != "" && strings.HasSuffix(strings.ToLower(name), "_proxy") && !strings.EqualFold(name, "no_proxy")
	})
	if !proxied {
		return env
	}
	env = slices.Clone(env)
	said := false
	for i, v := range env {
		name, value, _ := strings.Cut(v, "=")
		if !strings.EqualFold(name, "no_proxy") {
			continue
		}
		said = true
		if value != "" {
			value += ","
		}
		env[i] = name + "=" + value + host
	}
	if !said {
		env = append(env, "no_proxy="+host)
	}
	return env
}
