package mqtt

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// answerWithin bounds a dial, a handshake and a write.
const answerWithin = 10 * time.Second

// conn is one connection to the broker.
type conn struct {
	net net.Conn
	in  *bufio.Reader
	mu  sync.Mutex // of writes
}

// write writes whole packets. A connection that takes none is closed, which its
// reader sees.
func (c *conn) write(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.net.SetWriteDeadline(time.Now().Add(answerWithin))
	if _, err := c.net.Write(b); err != nil {
		_ = c.net.Close()
	}
}

// connect keeps one connection until it ends, which it says why, or ctx does. It
// calls subscribed once the broker has granted all filters.
func (s *session) connect(ctx context.Context, subscribed func()) error {
	c, err := s.dial(ctx)
	if err != nil {
		return unreachable(s.c.Address, err)
	}
	defer context.AfterFunc(ctx, func() { _ = c.net.SetReadDeadline(time.Now()) })()
	err = s.serve(ctx, c, subscribed)
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() != nil && s.conn == c {
		return err // acknowledgements still go out: see leave
	}
	s.conn = nil
	_ = c.net.Close()
	return err
}

func (s *session) dial(ctx context.Context) (*conn, error) {
	d := &net.Dialer{Timeout: answerWithin}
	var (
		raw net.Conn
		err error
	)
	if s.c.TLS != nil {
		raw, err = (&tls.Dialer{NetDialer: d, Config: s.c.TLS}).DialContext(ctx, "tcp", s.c.Address)
	} else {
		raw, err = d.DialContext(ctx, "tcp", s.c.Address)
	}
	if err != nil {
		return nil, err
	}
	return &conn{net: raw, in: bufio.NewReader(raw)}, nil
}

// serve speaks with the broker until the connection ends.
func (s *session) serve(ctx context.Context, c *conn, subscribed func()) error {
	ack, err := s.greet(c)
	if err != nil {
		return err
	}
	keepAlive := s.c.KeepAlive
	if ack.Properties.ServerKeepAliveFlag {
		keepAlive = time.Duration(ack.Properties.ServerKeepAlive) * time.Second
	}
	s.mu.Lock()
	s.conn = c
	if !ack.SessionPresent {
		clear(s.pending) // the ids begin anew
		s.subscribed = false
	}
	granted := s.subscribed
	s.mu.Unlock()
	if granted {
		subscribed()
	} else if err := s.subscribe(c); err != nil {
		return err
	}

	ended := make(chan struct{})
	var pinging sync.WaitGroup
	defer pinging.Wait()
	defer close(ended)
	if keepAlive > 0 {
		pinging.Go(func() { s.ping(c, keepAlive/2, ended) })
	}
	for ctx.Err() == nil {
		if keepAlive > 0 {
			_ = c.net.SetReadDeadline(time.Now().Add(keepAlive + keepAlive/2))
		}
		if ctx.Err() != nil {
			break // its deadline was overwritten
		}
		pk, err := s.c.read(c.in)
		if err != nil {
			return fmt.Errorf("read from MQTT at %s: %w", s.c.Address, err)
		}
		switch pk.FixedHeader.Type {
		case packets.Publish:
			s.receive(ctx, c, pk)
		case packets.Pubrel:
			s.release(c, pk.PacketID)
		case packets.Suback:
			if err := s.granted(pk.ReasonCodes); err != nil {
				return err
			}
			subscribed()
		case packets.Pingresp:
		case packets.Disconnect:
			if pk.ReasonCode == packets.ErrSessionTakenOver.Code {
				return fmt.Errorf("%w: %q", ErrTakenOver, s.c.ClientID)
			}
			return fmt.Errorf("the broker disconnects: %s", reason(pk.ReasonCode, pk.Properties.ReasonString))
		default:
			return fmt.Errorf("a packet of type %d, which no broker sends", pk.FixedHeader.Type)
		}
	}
	return ctx.Err()
}

// ping keeps the connection alive until ended is closed. It does not wait for
// answers: while too much is on its way nobody reads them.
func (s *session) ping(c *conn, every time.Duration, ended <-chan struct{}) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			c.write([]byte{packets.Pingreq << 4, 0})
		case <-ended:
			return
		}
	}
}

// greet connects to the session.
func (s *session) greet(c *conn) (*packet, error) {
	pk := packets.Packet{
		ProtocolVersion: s.c.Version,
		FixedHeader:     packets.FixedHeader{Type: packets.Connect},
		Connect: packets.ConnectParams{
			ProtocolName:     []byte("MQTT"),
			Keepalive:        uint16(s.c.KeepAlive / time.Second),
			ClientIdentifier: s.c.ClientID,
		},
		Properties: packets.Properties{
			SessionExpiryInterval:     uint32(s.c.SessionExpiry / time.Second),
			SessionExpiryIntervalFlag: true,
			ReceiveMaximum:            uint16(s.c.InFlight),
			MaximumPacketSize:         uint32(s.c.MaxPacket),
		},
	}
	if s.c.Username != "" {
		pk.Connect.UsernameFlag, pk.Connect.Username = true, []byte(s.c.Username)
	}
	if s.c.Password != nil {
		password, err := s.c.Password()
		if err != nil {
			return nil, fmt.Errorf("read the password for MQTT: %w", err)
		}
		pk.Connect.PasswordFlag, pk.Connect.Password = true, []byte(password)
	}
	var out bytes.Buffer
	if err := pk.ConnectEncode(&out); err != nil {
		return nil, fmt.Errorf("encode CONNECT: %w", err)
	}
	c.write(out.Bytes())
	_ = c.net.SetReadDeadline(time.Now().Add(answerWithin))
	ack, err := s.c.read(c.in)
	switch {
	case err != nil:
		return nil, unreachable(s.c.Address, err)
	case ack.FixedHeader.Type != packets.Connack:
		return nil, unreachable(s.c.Address, fmt.Errorf("expected CONNACK, found a packet of type %d", ack.FixedHeader.Type))
	case ack.ReasonCode != 0:
		return nil, fmt.Errorf("connect to MQTT at %s: %w: %s", s.c.Address, ErrRefused, s.c.refusal(ack))
	}
	return ack, nil
}

func (s *session) subscribe(c *conn) error {
	pk := packets.Packet{
		ProtocolVersion: s.c.Version,
		FixedHeader:     packets.FixedHeader{Type: packets.Subscribe, Qos: 1},
		PacketID:        65535, // some brokers refuse one that they use themselves, and begin with 1
	}
	for _, r := range s.routes {
		pk.Filters = append(pk.Filters, packets.Subscription{
			Filter:         r.Filter,
			Qos:            s.c.QoS,
			RetainHandling: 1, // what is retained comes once, with a new session
		})
	}
	var out bytes.Buffer
	if err := pk.SubscribeEncode(&out); err != nil {
		return fmt.Errorf("encode SUBSCRIBE: %w", err)
	}
	c.write(out.Bytes())
	return nil
}

// granted looks at the answers to a subscription.
func (s *session) granted(codes []byte) error {
	if len(codes) != len(s.routes) {
		return fmt.Errorf("subscribe: %w: %d answers to %d filters", ErrRefused, len(codes), len(s.routes))
	}
	for i, code := range codes {
		switch {
		case code >= 0x80:
			return fmt.Errorf("subscribe to %q: %w: %s", s.routes[i].Filter, ErrRefused, reason(code, ""))
		case code == 0 && s.c.QoS > 0:
			return fmt.Errorf("subscribe to %q: %w: it grants QoS 0 alone, at which it waits for nobody; ask for no more if that will do", s.routes[i].Filter, ErrRefused)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subscribed = true
	return nil
}

// leave disconnects, once nothing is to be acknowledged any more. The broker keeps
// the session.
func (s *session) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil {
		return
	}
	s.conn.write([]byte{packets.Disconnect << 4, 0})
	// To close with something unread would reset the connection, and the broker
	// might not see what was acknowledged last.
	_ = s.conn.net.SetReadDeadline(time.Now().Add(answerWithin))
	_, _ = io.Copy(io.Discard, s.conn.net)
	_ = s.conn.net.Close()
	s.conn = nil
}

// encode appends an acknowledgement.
func (c *Config) encode(out *bytes.Buffer, kind byte, id uint16) {
	out.Write([]byte{kind << 4, 2, byte(id >> 8), byte(id)}) // success, in 5 too
}

// refusal is why a broker refuses a connection.
func (c *Config) refusal(ack *packet) string {
	if c.Version == 5 {
		return reason(ack.ReasonCode, ack.Properties.ReasonString)
	}
	names := []string{1: "it does not speak MQTT 3.1.1", "the client id", "it is not available", "user name or password", "not authorized"}
	if int(ack.ReasonCode) < len(names) {
		return names[ack.ReasonCode]
	}
	return reason(ack.ReasonCode, "")
}

func reason(code byte, text string) string {
	if text != "" {
		return fmt.Sprintf("%#02x, %q", code, text)
	}
	names := map[byte]string{
		0x80: "unspecified", 0x84: "it does not speak MQTT 5", 0x85: "the client id", 0x86: "user name or password", 0x87: "not authorized",
		0x88: "it is not available", 0x8b: "it shuts down", 0x8d: "keep alive", 0x8f: "the topic filter", 0x97: "quota", 0x9e: "it has no shared subscriptions",
	}
	if name, ok := names[code]; ok {
		return fmt.Sprintf("%#02x, %s", code, name)
	}
	return fmt.Sprintf("%#02x", code)
}

var errPacket = errors.New("malformed packet from the MQTT broker")

// packet is a packet from the broker.
type packet struct {
	packets.Packet
	tooLarge bool // a PUBLISH beyond Config.MaxPacket, without its payload
}

// read reads one packet. It is the one place where bytes of a broker are decoded.
func (c *Config) read(in *bufio.Reader) (pk *packet, err error) {
	defer func() {
		if r := recover(); r != nil {
			pk, err = nil, fmt.Errorf("%w: %v", errPacket, r)
		}
	}()
	first, err := in.ReadByte()
	if err != nil {
		return nil, err
	}
	pk = &packet{Packet: packets.Packet{ProtocolVersion: c.Version}}
	if err := pk.FixedHeader.Decode(first); err != nil {
		return nil, fmt.Errorf("%w: %w", errPacket, err)
	}
	size, _, err := packets.DecodeLength(in)
	if err != nil {
		return nil, err
	}
	pk.FixedHeader.Remaining = size
	body := make([]byte, min(size, c.MaxPacket))
	switch {
	case size <= c.MaxPacket:
		_, err = io.ReadFull(in, body)
	case pk.FixedHeader.Type == packets.Publish && c.Version == 4:
		pk.tooLarge = true
		body, err = withoutPayload(in, pk.FixedHeader)
	default: // 5 has told the broker the limit
		err = fmt.Errorf("%w: %d bytes, expected at most %d", errPacket, size, c.MaxPacket)
	}
	if err != nil {
		return nil, err
	}
	switch pk.FixedHeader.Type {
	case packets.Connack:
		err = pk.ConnackDecode(body)
	case packets.Publish:
		err = pk.PublishDecode(body)
		if err == nil {
			if code := pk.PublishValidate(0); code != packets.CodeSuccess {
				err = code
			}
		}
	case packets.Pubrel:
		err = pk.PubrelDecode(body)
	case packets.Suback:
		err = pk.SubackDecode(body)
	case packets.Disconnect:
		if err = pk.DisconnectDecode(body); size == 1 {
			pk.ReasonCode = body[0] // which DisconnectDecode passes over
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errPacket, err)
	}
	return pk, nil
}

// withoutPayload reads a PUBLISH of 3.1.1, and leaves its payload away.
func withoutPayload(in *bufio.Reader, h packets.FixedHeader) ([]byte, error) {
	length, err := in.Peek(2)
	if err != nil {
		return nil, err
	}
	size := 2 + int(length[0])<<8 + int(length[1])
	if h.Qos > 0 {
		size += 2 // the packet id
	}
	if size > h.Remaining {
		return nil, fmt.Errorf("%w: its topic is longer than it is", errPacket)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(in, body); err != nil {
		return nil, err
	}
	_, err = in.Discard(h.Remaining - size)
	return body, err
}
