package run

import (
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/moorage-dev/moorage/loadtest/results"
)

// machine tells where this runs, as far as the system says.
func machine() results.Machine {
	m := results.Machine{Cores: runtime.NumCPU(), Go: runtime.Version(), Kernel: runtime.GOOS, CPU: runtime.GOARCH}
	if v := field("/proc/cpuinfo", "model name"); v != "" {
		m.CPU = v
	}
	if kb, err := strconv.ParseUint(strings.TrimSuffix(field("/proc/meminfo", "MemTotal"), " kB"), 10, 64); err == nil {
		m.Memory = kb << 10
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = runtime.GOOS + " " + strings.TrimSpace(string(b))
	}
	return m
}

// field reads one value of a file of lines "name : value"; "" if there is none.
func field(file, name string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
