package samples

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// words is text that a field of a name of these words may hold. Addresses are
// those set apart for examples (RFC 2606, 5737, 3849, 7042), and so are the
// telephone numbers.
func (g *generator) words(w []string) string {
	last := w[len(w)-1]
	// The more telling of the words that stand before.
	first := ""
	if len(w) > 1 {
		first = w[len(w)-2]
	}
	switch last {
	case "email", "mail":
		return strings.ToLower(g.given()+"."+g.family()) + "@example.org"
	case "firstname", "given", "forename":
		return g.given()
	case "lastname", "surname", "family":
		return g.family()
	case "username", "login", "user", "nickname":
		return strings.ToLower(g.given()) + fmt.Sprint(g.between(1, 99))
	case "name":
		switch first {
		case "first", "given":
			return g.given()
		case "last", "family":
			return g.family()
		case "user":
			return strings.ToLower(g.given()) + fmt.Sprint(g.between(1, 99))
		case "host", "domain":
			return g.words([]string{"host"})
		case "city", "country", "company", "product", "item", "device", "airport", "carrier", "file", "event":
			return g.words([]string{first})
		}
		return g.given() + " " + g.family()
	case "customer", "owner", "author", "person", "passenger", "employee", "contact", "manager", "driver":
		return g.given() + " " + g.family()
	case "city", "town":
		return g.pick("Amsterdam", "Bogotá", "Chicago", "Dublin", "Hanoi", "Kraków", "Lagos", "Lima", "Lyon", "Nairobi", "Osaka", "Porto", "Pune", "Zürich")
	case "country", "nationality":
		return g.pick("Brazil", "Canada", "Germany", "India", "Japan", "Kenya", "Mexico", "Norway", "Poland", "Portugal")
	case "street", "address", "addr":
		switch first {
		case "ip", "email", "mac":
			return g.words([]string{first})
		}
		return fmt.Sprintf("%d %s Street", g.between(1, 240), g.pick("Harbour", "Mill", "Station", "Church", "Park", "Bridge", "Orchard"))
	case "zip", "zipcode", "postcode", "postal":
		return fmt.Sprintf("%05d", g.between(1000, 99999))
	case "airport", "origin", "dest", "destination", "iata":
		return g.pick("AMS", "ATL", "BOS", "CDG", "DEN", "EWR", "FRA", "HND", "JFK", "LAX", "LGA", "LHR", "MIA", "ORD", "SFO", "ZRH")
	case "carrier", "airline":
		return g.pick("AA", "AF", "B6", "BA", "DL", "KL", "LH", "NH", "UA", "WN")
	case "tailnum", "tail", "registration":
		return fmt.Sprintf("N%03d%s", g.between(100, 999), g.pick("AA", "DL", "JB", "UA", "WN"))
	case "flight":
		return g.pick("AA", "BA", "DL", "LH", "UA") + fmt.Sprint(g.between(1, 4999))
	case "gate":
		return g.pick("A", "B", "C", "D") + fmt.Sprint(g.between(1, 40))
	case "currency":
		return g.pick("EUR", "USD", "GBP", "JPY", "CHF", "BRL", "INR")
	case "code":
		switch first {
		case "country":
			return g.pick("BR", "CA", "DE", "IN", "JP", "KE", "MX", "NO", "PL", "PT")
		case "currency", "airport", "carrier", "airline", "postal", "zip":
			return g.words([]string{first})
		}
		return fmt.Sprintf("%s%03d", g.pick("A", "B", "C", "E"), g.IntN(1000))
	case "state", "status", "phase":
		return g.pick("NEW", "ACTIVE", "PENDING", "DONE", "FAILED")
	case "priority", "severity", "level":
		return g.pick("LOW", "MEDIUM", "HIGH")
	case "type", "kind", "category", "class", "group":
		return g.pick("standard", "basic", "premium", "special")
	case "region", "zone":
		return g.pick("eu-central", "eu-west", "us-east", "us-west", "ap-south")
	case "url", "uri", "link", "website", "href", "homepage":
		return fmt.Sprintf("https://example.org/%s/%d", g.pick(adjectives()...), g.between(1, 9999))
	case "path", "file", "filename":
		return fmt.Sprintf("/%s/%s.txt", g.pick(adjectives()...), g.pick(nouns()...))
	case "ip", "ipv4":
		return fmt.Sprintf("192.0.2.%d", g.between(1, 254))
	case "ipv6":
		return fmt.Sprintf("2001:db8::%x", g.between(1, 0xffff))
	case "mac":
		return fmt.Sprintf("00:00:5e:00:53:%02x", g.IntN(256))
	case "host", "hostname", "domain", "server", "node":
		return g.pick(adjectives()...) + ".example.org"
	case "phone", "telephone", "mobile", "tel":
		return fmt.Sprintf("+1-202-555-01%02d", g.IntN(100))
	case "colour", "color":
		return g.pick("black", "blue", "green", "grey", "red", "white", "yellow")
	case "company", "organisation", "organization", "vendor", "supplier", "merchant":
		return g.family() + g.pick(" Ltd", " & Sons", " GmbH", " Works")
	case "sku":
		return fmt.Sprintf("%s-%03d", g.pick("A", "B", "C", "D", "E"), g.IntN(200))
	case "product", "item", "article":
		return g.pick(adjectives()...) + " " + g.pick(nouns()...)
	case "device", "machine", "sensor", "instance":
		return fmt.Sprintf("%s-%02d", last, g.between(1, 20))
	case "language", "lang", "locale":
		return g.pick("de", "en", "es", "fr", "ja", "pt")
	case "timezone", "tz":
		return g.pick("Europe/Berlin", "America/New_York", "Asia/Tokyo", "UTC")
	case "unit":
		return g.pick("kg", "m", "s", "piece")
	case "version":
		return fmt.Sprintf("%d.%d.%d", g.IntN(4), g.IntN(10), g.IntN(10))
	case "hash", "digest", "checksum", "fingerprint", "token", "etag":
		return fmt.Sprintf("%x", g.bytes(16))
	case "uuid", "guid":
		return g.uuid()
	case "date", "day":
		return g.instant(w).Format(time.DateOnly)
	case "time", "timestamp", "at", "datetime", "ts":
		return g.instant(w).Format(time.RFC3339Nano)
	case "latitude", "longitude", "lat", "lon", "price", "amount", "total":
		low, high := floats(w)
		return fmt.Sprintf("%.2f", float64(int64(g.between(int(low), int(high))))/100)
	case "title", "subject", "label":
		return "The " + g.pick(adjectives()...) + " " + g.pick(nouns()...)
	case "description", "comment", "note", "notes", "message", "text", "reason", "body":
		return fmt.Sprintf("The %s %s is %s.", g.pick(adjectives()...), g.pick(nouns()...), g.pick(adjectives()...))
	case "id", "number", "no", "key", "ref", "reference":
		if first == "" && g.owner != "" { // the event's own
			return fmt.Sprintf("%s-%06d", strings.ToUpper(g.owner[:1]), (g.nth+uint64(g.try)*7919)%1_000_000)
		}
		return fmt.Sprintf("%s-%04d", strings.ToUpper(w[0][:1]), g.IntN(500*(g.try+1)))
	}
	return g.pick(adjectives()...) + "-" + g.pick(nouns()...)
}

func (g *generator) given() string {
	return g.pick("Ada", "Amina", "Bruno", "Chen", "Clara", "Diego", "Emma", "Farid", "Grace", "Hana", "Ivan", "Joana", "Kofi", "Lena", "Mateo", "Noor", "Olga", "Pedro", "Ravi", "Sofia")
}

func (g *generator) family() string {
	return g.pick("Abara", "Berg", "Costa", "Dubois", "Fischer", "Garcia", "Hansen", "Ito", "Kowalski", "Lopez", "Meyer", "Novak", "Okafor", "Park", "Rossi", "Silva", "Tanaka", "Varga", "Weber", "Yilmaz")
}

func adjectives() []string {
	return []string{"amber", "brisk", "calm", "deep", "early", "fair", "gentle", "hollow", "idle", "jolly", "keen", "late", "mild", "narrow", "open", "plain", "quiet", "rapid", "steep", "tidy", "vivid", "warm"}
}

func nouns() []string {
	return []string{"anchor", "basin", "canal", "dam", "engine", "ferry", "gate", "harbour", "island", "jetty", "keel", "lock", "mill", "nozzle", "outlet", "pump", "reservoir", "sluice", "turbine", "valve", "weir"}
}

// integers is the range of an integer of that name.
func (g *generator) integers(w []string, bits int) (low, high int64) {
	last := w[len(w)-1]
	switch last {
	case "year":
		return int64(g.at.Year()), int64(g.at.Year())
	case "month":
		return 1, 12
	case "day":
		return 1, 28
	case "hour", "hours":
		return 0, 23
	case "minute", "minutes", "second", "seconds":
		return 0, 59
	case "age":
		return 18, 90
	case "quantity", "qty", "count", "items", "passengers", "attempts", "retries":
		return 1, 9
	case "port":
		return 1024, 65535
	case "cents":
		return 99, 20_000
	case "price", "amount", "total", "cost", "value", "balance":
		return 1, 1000
	case "percent", "percentage", "humidity", "progress", "battery":
		return 0, 100
	case "rating", "stars", "score":
		return 1, 5
	case "status":
		return 200, 204
	case "delay":
		return -15, 90
	case "distance", "altitude", "weight", "length", "width", "height", "size", "bytes":
		return 10, 3000
	case "temperature", "celsius":
		return -10, 35
	case "latitude", "lat":
		return -90, 90
	case "longitude", "lon", "lng":
		return -180, 180
	case "zip", "zipcode", "postcode":
		return 10_000, 99_999
	case "id", "sequence", "seq", "offset", "index", "number":
		if len(w) == 1 || last != "id" && last != "number" {
			n := int64(min(g.nth, math.MaxInt32-1)) + 1
			return n, n + int64(g.try)
		}
		return 1, 500 + int64(g.try)*1000
	case "timestamp", "time", "at", "ts", "ms", "millis", "epoch":
		if bits != 32 {
			t := g.instant(w).UnixMilli()
			return t, t
		}
		t := g.instant(w).Unix()
		return t, t
	}
	return 0, 1000
}

// floats is the range of a floating-point number of that name, in hundredths.
func floats(w []string) (low, high int64) {
	switch w[len(w)-1] {
	case "latitude", "lat":
		return -90_00, 90_00
	case "longitude", "lon", "lng", "long":
		return -180_00, 180_00
	case "price", "amount", "total", "cost", "fee", "fare", "balance", "tax":
		return 99, 500_00
	case "temperature", "celsius", "temp":
		return -10_00, 35_00
	case "percent", "percentage", "humidity", "battery":
		return 0, 100_00
	case "ratio", "probability", "share", "confidence", "discount":
		return 0, 1_00
	case "rating", "stars", "score":
		return 1_00, 5_00
	case "pressure":
		return 980_00, 1040_00
	case "speed":
		return 0, 130_00
	case "volts", "voltage":
		return 220_00, 240_00
	}
	return 0, 1000_00
}
