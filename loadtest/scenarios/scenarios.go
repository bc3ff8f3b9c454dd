// Package scenarios holds the ready scenarios. Each file says in its first
// lines what it shows and what it needs. Package scenario reads them.
package scenarios

import "embed"

// Files has a NAME.yaml for each.
//
//go:embed *.yaml
var Files embed.FS
