package remoting

import (
	"bytes"
	"encoding/binary"
	"math"
)

// The classes of commands an onlooker meets most, without their package.
const (
	ClassUserRequest  = "UserRequest"
	ClassRPCRequest   = "RemoteInvocationHandler$RPCRequest"
	ClassResponse     = "Response"
	ClassCancel       = "Request$Cancel"
	ClassStreamChunk  = "ProxyOutputStream$Chunk"
	ClassStreamFlush  = "ProxyOutputStream$Flush"
	ClassStreamEOF    = "ProxyOutputStream$EOF"
	ClassStreamAck    = "ProxyOutputStream$Ack"
	ClassCloseCommand = "Channel$CloseCommand"
)

const (
	commandFront   = "\xac\xed\x00\x05sr" // stream magic and version, new object, new class
	commandPackage = "hudson.remoting."
	classLimit     = 256
)

// The class from which all commands come: its only field, a stack trace, is
// null in the fixed forms below.
const commandSuper = "xr\x00\x17hudson.remoting.Command\x00\x00\x00\x00\x00\x00\x00\x01\x02\x00\x01L\x00\x09createdAtt\x00\x15Ljava/lang/Exception;xp" + "p"

// Class reads a command's class, without the package hudson.remoting, from its
// first bytes. It tells what a command is; it does not make it one.
func Class(command []byte) (string, error) {
	if !bytes.HasPrefix(command, []byte(commandFront)) {
		if bytes.HasPrefix([]byte(commandFront), command) {
			return "", ErrShort
		}
		return "", malformed("no command")
	}
	name, _, err := parseBytes(command[len(commandFront):], classLimit)
	if err != nil {
		return "", err
	}
	class, found := bytes.CutPrefix(name, []byte(commandPackage))
	if !found {
		return "", malformed("a command of a foreign class")
	}
	return string(class), nil
}

// AppendClass appends the first bytes of a command of a class, as far as Class
// reads them.
func AppendClass(b []byte, class string) []byte {
	return AppendString(append(b, commandFront...), commandPackage+class)
}

const serialVersion1 = "\x00\x00\x00\x00\x00\x00\x00\x01"

// AppendStreamAck appends a ProxyOutputStream$Ack: the receiver of a pipe has
// taken size bytes.
func AppendStreamAck(b []byte, oid, size uint32) []byte {
	b = AppendClass(b, ClassStreamAck)
	b = append(b, serialVersion1+"\x02\x00\x02I\x00\x03oidI\x00\x04size"+commandSuper...)
	return appendInts(b, oid, size)
}

// AppendStreamFlush appends a ProxyOutputStream$Flush.
func AppendStreamFlush(b []byte, ioID, oid, requestID uint32) []byte {
	b = AppendClass(b, ClassStreamFlush)
	b = append(b, serialVersion1+"\x02\x00\x03I\x00\x04ioIdI\x00\x03oidI\x00\x09requestId"+commandSuper...)
	return appendInts(b, ioID, oid, requestID)
}

// AppendStreamChunk appends a ProxyOutputStream$Chunk: bytes of a pipe.
func AppendStreamChunk(b []byte, ioID, oid, requestID uint32, data []byte) []byte {
	if len(data) > math.MaxInt32 {
		panic("remoting: a stream chunk larger than a Java array")
	}
	b = AppendClass(b, ClassStreamChunk)
	b = append(b, serialVersion1+"\x02\x00\x04I\x00\x04ioIdI\x00\x03oidI\x00\x09requestId[\x00\x03buft\x00\x02[B"+commandSuper...)
	b = appendInts(b, ioID, oid, requestID)
	b = append(b, "ur\x00\x02[B\xac\xf3\x17\xf8\x06\x08\x54\xe0\x02\x00\x00xp"...)
	b = appendInts(b, uint32(len(data)))
	return append(b, data...)
}

func appendInts(b []byte, values ...uint32) []byte {
	for _, v := range values {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}
