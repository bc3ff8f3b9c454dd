package site

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"
)

// The legs, as faults name them.
const (
	legAgents = "agent-gateway"
	legKafka  = "gateway-kafka"
	legApp    = "app-kafka"
)

// kafkaOrigin tells who has come to a broker's proxy. All are told the same
// address, so it looks for the process that holds the other end; who is no
// gateway is the application's.
func (s *site) kafkaOrigin(conn net.Conn, number int) origin {
	o := origin{leg: legApp, broker: number}
	s.mu.Lock()
	gateways := slices.Clone(s.gateways)
	s.mu.Unlock()
	from, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return o
	}
	if s.net != nil {
		for _, g := range gateways {
			if from.IP.String() == g.host.address {
				o.leg, o.gateway = legKafka, g.number
			}
		}
		return o
	}
	inode := socketOf(conn)
	if inode == 0 {
		return o
	}
	target := socketName(inode)
	for _, g := range gateways {
		if holds(g.pid(), target) {
			o.leg, o.gateway = legKafka, g.number
			return o
		}
	}
	return o
}

// socketOf finds the local IPv4 socket at the other end of a connection, 0 if
// it has gone. A port may serve several connections, to different addresses.
func socketOf(conn net.Conn) uint64 {
	own, far := kernelAddr(conn.LocalAddr()), kernelAddr(conn.RemoteAddr())
	f, err := os.Open("/proc/net/tcp")
	if own == "" || far == "" || err != nil {
		return 0
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if field := strings.Fields(lines.Text()); len(field) > 9 && field[1] == far && field[2] == own {
			inode, err := strconv.ParseUint(field[9], 10, 64)
			if err != nil {
				return 0
			}
			return inode
		}
	}
	return 0
}

// kernelAddr is an IPv4 address as the kernel writes it: a number of the
// machine's own order. "" for others.
func kernelAddr(addr net.Addr) string {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok || tcp.IP.To4() == nil {
		return ""
	}
	return fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(tcp.IP.To4()), tcp.Port)
}

// holds tells whether a process has a file open.
func holds(pid int, target string) bool {
	if pid == 0 {
		return false
	}
	p, err := procfs.NewProc(pid)
	if err != nil {
		return false
	}
	targets, err := p.FileDescriptorTargets()
	if err != nil {
		return false
	}
	return slices.Contains(targets, target)
}

func socketName(inode uint64) string { return "socket:[" + strconv.FormatUint(inode, 10) + "]" }
