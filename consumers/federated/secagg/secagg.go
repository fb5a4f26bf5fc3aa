// Package secagg is secure aggregation: a server learns the sum of its clients'
// vectors, and nothing else of them, also where clients drop out.
//
// It is the protocol of Bonawitz et al. (2017) with double masking, over a log,
// with keys that a quantum computer does not break (X25519 and ML-KEM-768
// together). Client and Server are state machines without a clock, a connection
// or a disk: messages in, messages out. docs/federated-wire.md has every byte.
//
// # The stages
//
// A record of the server ends each stage and names whom the next one counts on;
// whoever is not in it has dropped out. Every message is signed over its stage,
// its sender, the round, the base model, and the hash of the server's record
// before it, which covers all records before that one.
//
//	server   client
//	Open
//	         Keys     two pairs of keys
//	Roster   whose keys came
//	         Shares   for each peer a share of two secrets, sealed
//	Shared   whose shares came: these mask
//	         Masked   the vector, under masks
//	Survived whose vectors came, and who is missing
//	         Confirm  that this is the list the client saw
//	Agreed   confirmations of at least the threshold
//	         Unmask   of survivors the shares of the seed, of the missing those of the root
//
// # What holds
//
// The server needs shares of at least Threshold clients to take masks off. A
// client gives of each peer one kind of share, and only for a list that at least
// Threshold clients have signed; since two such lists would share a client that
// follows the protocol, no vector is left without a mask, although the server
// lies, so long as fewer than a third of the clients help it. A client that lies
// can spoil the sum, as it can with a made-up vector, and learns no more for it.
package secagg

import (
	"fmt"
)

// Reason says in a word why a message was refused.
type Reason string

// The reasons.
const (
	Malformed     Reason = "malformed"      // it cannot be read
	UnknownClient Reason = "unknown-client" // nobody expects its sender
	BadSignature  Reason = "bad-signature"  // its sender did not sign it so
	WrongRound    Reason = "wrong-round"    // it is of another training, round, attempt or base model
	WrongRoster   Reason = "wrong-roster"   // it was made under another record of the server
	WrongStage    Reason = "wrong-stage"    // it is not what this side takes, or takes now
	Duplicate     Reason = "duplicate"      // the first one counts
	Late          Reason = "late"           // its stage ended without it
	BadShare      Reason = "bad-share"      // a share is missing, too many, or not the one promised
	BadList       Reason = "bad-list"       // a list overlaps, misses members, or has too few
	Second        Reason = "second-list"    // the first list of its stage counts
	BadSettings   Reason = "bad-settings"   // the round is not one that a client takes part in
	NotOurs       Reason = "not-ours"       // the roster has other keys of this client
)

// Refusal is the error of a message that does not count. The machine is as it
// was before.
type Refusal struct {
	Reason Reason
	Stage  Stage
	Sender string // empty is the server
	Detail string
}

// Error is one sentence.
func (r *Refusal) Error() string {
	sender := "the server"
	if r.Sender != "" {
		sender = fmt.Sprintf("client %.100q", r.Sender)
	}
	return fmt.Sprintf("%s: %v of %s: %s", r.Reason, r.Stage, sender, r.Detail)
}
