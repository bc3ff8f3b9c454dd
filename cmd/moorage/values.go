package main

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/alecthomas/kong"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/gateway"
)

// A size is a number of bytes; as text it may end in KiB, MiB or GiB.
type size int64

var sizeUnits = []struct {
	suffix string
	shift  uint
}{{"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"K", 10}, {"M", 20}, {"G", 30}, {"B", 0}}

// UnmarshalText reads a number with or without unit.
func (s *size) UnmarshalText(text []byte) error {
	digits, shift := string(text), uint(0)
	for _, unit := range sizeUnits {
		if number, ok := strings.CutSuffix(digits, unit.suffix); ok {
			digits, shift = number, unit.shift
			break
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
	if err != nil || n < 1 || n > 1<<62>>shift {
		return fmt.Errorf("want a number of bytes above 0, such as 65536, 64KiB or 4MiB, got %q", text)
	}
	*s = size(n << shift)
	return nil
}

// A count is how many of something there may be. What is bounded by none could
// not work, so 0 is refused rather than taken for something else.
type count int

// UnmarshalText parses what people write.
func (c *count) UnmarshalText(text []byte) error {
	n, err := strconv.Atoi(string(text))
	if err != nil || n < 1 {
		return fmt.Errorf("want a whole number above 0, got %q", text)
	}
	*c = count(n)
	return nil
}

// An address is host:port to connect to.
type address string

// UnmarshalText checks the form; the name is looked up only when it is dialled.
func (a *address) UnmarshalText(text []byte) error {
	host, port, err := net.SplitHostPort(string(text))
	if err != nil || host == "" || !validPort(port) || port == "0" {
		return fmt.Errorf("want HOST:PORT, got %q", text)
	}
	*a = address(text)
	return nil
}

// A listenAddress is [host]:port to listen on. Port 0 takes a free one.
type listenAddress string

// UnmarshalText checks the form.
func (a *listenAddress) UnmarshalText(text []byte) error {
	_, port, err := net.SplitHostPort(string(text))
	if err != nil || !validPort(port) {
		return fmt.Errorf("want [HOST]:PORT, got %q", text)
	}
	*a = listenAddress(text)
	return nil
}

func validPort(port string) bool {
	_, err := strconv.ParseUint(port, 10, 16)
	return err == nil
}

// texts returns the addresses as the packages below want them.
func texts[S ~string](list []S) []string {
	plain := make([]string, len(list))
	for i, s := range list {
		plain[i] = string(s)
	}
	return plain
}

// A controllerName names a controller.
type controllerName string

// UnmarshalText checks the form.
func (c *controllerName) UnmarshalText(text []byte) error {
	if bridge.ValidController(string(text)) != nil {
		return fmt.Errorf("want 1 to 63 of a-z, 0-9 and -, not beginning with -, got %q", text)
	}
	*c = controllerName(text)
	return nil
}

// A topicPrefix is what the names of topics begin with.
type topicPrefix string

// UnmarshalText checks the form.
func (t *topicPrefix) UnmarshalText(text []byte) error {
	if err := bridge.ValidPrefix(string(text)); err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "bridge: "))
	}
	*t = topicPrefix(text)
	return nil
}

// A gatewayName names a gateway; "" is the host's name.
type gatewayName string

// UnmarshalText checks the form.
func (g *gatewayName) UnmarshalText(text []byte) error {
	if len(text) > 0 {
		if err := gateway.ValidName(string(text)); err != nil {
			return errors.New(strings.TrimPrefix(err.Error(), "gateway: "))
		}
	}
	*g = gatewayName(text)
	return nil
}

// A pair is NAME=VALUE.
type pair struct{ Name, Value string }

// UnmarshalText reads NAME=VALUE; neither may be empty.
func (p *pair) UnmarshalText(text []byte) error {
	name, value, ok := strings.Cut(string(text), "=")
	if !ok || name == "" || value == "" {
		return fmt.Errorf("want NAME=VALUE, got %q", text)
	}
	*p = pair{name, value}
	return nil
}

// An agentName names an agent. The protocol gives it 255 bytes.
type agentName string

// UnmarshalText checks the form.
func (a *agentName) UnmarshalText(text []byte) error {
	if len(text) < 1 || len(text) > 255 || !utf8.Valid(text) {
		return fmt.Errorf("want a name of 1 to 255 bytes in UTF-8, got %d bytes", len(text))
	}
	*a = agentName(text)
	return nil
}

// leastTag is the tag of a flag whose least value is another than usual.
const leastTag = "least"

// leastTime is what a flag takes that says how long something may last. With
// none it could not be done, or the packages below would take a default of theirs.
const leastTime = time.Millisecond

// checkValues refuses what no flag means, from wherever it came: an empty list
// where one is required (an empty environment variable is a value too), and a
// time or a size below the flag's least.
func checkValues(selected *kong.Context) error {
	for _, flag := range selected.Flags() {
		var err error
		switch value := selected.FlagValue(flag).(type) {
		case time.Duration:
			if !flag.HasDefault && !flag.Set {
				continue // not given
			}
			err = checkLeast(flag, value, leastTime, time.ParseDuration)
		case size:
			if !flag.HasDefault && !flag.Set {
				continue // not given
			}
			err = checkLeast(flag, value, 1, parseSize)
		case []address:
			if flag.Required && len(value) == 0 {
				return usagef("--%s: want %s, got none", flag.Name, flag.FormatPlaceHolder())
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func parseSize(text string) (s size, err error) {
	err = s.UnmarshalText([]byte(text))
	return s, err
}

// checkLeast holds a value to the flag's tag, or to least where it has none.
func checkLeast[T ~int64](flag *kong.Flag, value, least T, parse func(string) (T, error)) error {
	text := fmt.Sprint(least)
	if flag.Tag.Has(leastTag) {
		text = flag.Tag.Get(leastTag)
		var err error
		if least, err = parse(text); err != nil {
			return fmt.Errorf("--%s: its tag says %s: %w", flag.Name, leastTag, err)
		}
	}
	if value < least {
		return usagef("--%s %v: want at least %s", flag.Name, value, text)
	}
	return nil
}
