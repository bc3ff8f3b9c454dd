package legacy_test

import (
	"testing"

	"github.com/moorage-dev/moorage/e2e/rig"
)

// start runs a program on the host, in a process group of its own.
func (h *host) start(t *testing.T, name, program string, args ...string) *rig.Process {
	t.Helper()
	argv := h.argv(program, args...)
	return rig.Start(t, name, argv[0], argv[1:]...)
}
