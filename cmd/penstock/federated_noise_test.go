package main

import "testing"

// The commands of the guide about privacy from the aggregator make a training that its
// budget ends, with noise by clients in Go and in Python.
func TestPrivateSecureGuide(t *testing.T) {
	runTraining(t, section(t, "Privacy from the aggregator too"), 5, `
exec penstock federated status hidden
stdout '^round 2 of 2  model [0-9a-f]{32}  fedavg  [34] updates  clipped to 1  epsilon 3\.189 of 4 spent at delta 1e-05  '
! exec penstock federated aggregate hidden --sample digits --clients ann,bob,cyd,dan --secure lab-keys --clip-norm 1 --noise 2 --epsilon 5
stderr 'its privacy settings are others'
! exec penstock federated aggregate hidden --sample digits --clients ann,bob,cyd,dan --secure lab-keys --clip-norm 1
stderr 'expected --noise, which the clients add'
! exec penstock federated aggregate hidden --sample digits --clients ann,bob,cyd,dan --secure lab-keys --colluders 1
stderr 'goes with --clip-norm'
`)
}

// So do those about a client that protects itself.
func TestLocalPrivacyGuide(t *testing.T) {
	runTraining(t, section(t, "Privacy from everybody"), 3, `
grep '^{"updates":{"4":3}}$' ann.json
exec penstock federated status local
stdout '^round 3 of 3  model '
! exec penstock federated join local --name ann --clip-norm 1 --noise 4
stderr 'expected --clip-norm, --noise and --ledger together'
! exec penstock federated join lab --name ann --clip-norm 1 --secure keys
stderr 'which the aggregator says'
`)
}
