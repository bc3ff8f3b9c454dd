package main

import (
	"errors"
	"fmt"
	"net"
	"syscall"
)

// listen opens the listener of a flag.
func listen(flag string, address listenAddress) (net.Listener, error) {
	l, err := net.Listen("tcp", string(address))
	if err != nil {
		return nil, listenError(flag, string(address), err)
	}
	return l, nil
}

// listenError says of a listener that could not be had what to do about it.
func listenError(flag, address string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s %s: another process listens there; stop it or choose another port", flag, address)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s %s: this host has no such address; choose one of its own", flag, address)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s %s: not allowed; choose a port above 1023 or give the process CAP_NET_BIND_SERVICE", flag, address)
	}
	return fmt.Errorf("%s %s: %w", flag, address, err)
}
