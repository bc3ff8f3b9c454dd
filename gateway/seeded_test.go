//go:build seeded

package gateway

import (
	"os"

	"github.com/moorage-dev/moorage/seeded"
)

// With MOORAGE_BREAK=NAME, one seeded defect is on, and these tests must fail:
// ticket-unchecked, foreign-position, evicted-not-reread, start-after-open,
// old-stream-served, replay-off-by-one.
func init() {
	if err := seeded.Set(os.Getenv("MOORAGE_BREAK")); err != nil {
		panic(err)
	}
}
