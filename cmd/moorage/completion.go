package main

import (
	kongcompletion "github.com/jotaen/kong-completion"
)

type completionCmd struct {
	kongcompletion.Completion
}

// Help gives the examples.
func (*completionCmd) Help() string {
	return `
Without a shell's name, the login shell's is taken.

Examples:

  moorage completion
  source <(moorage completion -c bash)
`
}
