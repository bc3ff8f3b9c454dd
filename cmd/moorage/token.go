package main

import (
	"fmt"

	"github.com/moorage-dev/moorage/gateway"
)

type tokenCmd struct {
	Agent        agentName `required:"" placeholder:"NAME" help:"Whose name the token proves."`
	TokenKeyFile string    `required:"" placeholder:"FILE" help:"File with the fleet's key on its first line, the same that the gateways have."`
}

// Help gives the examples.
func (*tokenCmd) Help() string {
	return `
A token does not expire; it is void when the fleet's key is changed.

Examples:

  openssl rand -base64 32 > /etc/moorage/token-key
  moorage token --agent a1 --token-key-file /etc/moorage/token-key > a1.token
`
}

// Run prints the token.
func (c *tokenCmd) Run(p *process) error {
	key, err := readKey("--token-key-file", c.TokenKeyFile)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(p.stdout, gateway.NewToken(key, string(c.Agent)))
	return err
}

// minKey is the shortest key in bytes that is taken for one.
const minKey = 16

// readKey returns the key in a flag's file, nil for no file.
func readKey(flag, name string) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	key, err := readSecret(flag, name)
	if err != nil {
		return nil, err
	}
	if len(key) < minKey {
		return nil, usagef("%s: the key in %s is shorter than %d characters; make one with: openssl rand -base64 32", flag, name, minKey)
	}
	return []byte(key), nil
}
