//go:build !unix

package gateway

import "net"

// ready returns what gRPC is to be given in place of c.
func (c *socket) ready() net.Conn { return c }
