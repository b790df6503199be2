// "Try it": texts with facts put in. The text is about the hive without a queen from Tolstoy's War and Peace (book
// eleven, translated by Louise and Aylmer Maude, in the public domain). The facts are made up.

const stretches = [
  "Meanwhile Moscow was empty. There were still people in it, perhaps a fiftieth part of its former " +
    "inhabitants had remained, but it was empty. It was empty in the sense that a dying queenless hive is " +
    "empty. In a queenless hive no life is left though to a superficial glance it seems as much alive as other " +
    "hives. The bees circle round a queenless hive in the hot beams of the midday sun as gaily as around the " +
    "living hives; from a distance it smells of honey like the others, and bees fly in and out in the same " +
    "way.",
  "But one has only to observe that hive to realize that there is no longer any life in it. The bees do not " +
    "fly in the same way, the smell and the sound that meet the beekeeper are not the same. To the beekeeper's " +
    "tap on the wall of the sick hive, instead of the former instant unanimous humming of tens of thousands of " +
    "bees with their abdomens threateningly compressed, and producing by the rapid vibration of their wings an " +
    "aerial living sound, the only reply is a disconnected buzzing from different parts of the deserted hive.",
  "From the alighting board, instead of the former spirituous fragrant smell of honey and venom, and the " +
    "warm whiffs of crowded life, comes an odor of emptiness and decay mingling with the smell of honey. There " +
    "are no longer sentinels sounding the alarm with their abdomens raised, and ready to die in defense of the " +
    "hive. There is no longer the measured quiet sound of throbbing activity, like the sound of boiling water, " +
    "but diverse discordant sounds of disorder.",
  "In and out of the hive long black robber bees smeared with honey fly timidly and shiftily. They do not " +
    "sting, but crawl away from danger. Formerly only bees laden with honey flew into the hive, and they flew " +
    "out empty; now they fly out laden. The beekeeper opens the lower part of the hive and peers in. Instead " +
    "of black, glossy bees--tamed by toil, clinging to one another's legs and drawing out the wax, with a " +
    "ceaseless hum of labor--that used to hang in long clusters down to the floor of the hive, drowsy " +
    "shriveled bees crawl about separately in various directions on the floor and walls of the hive.",
  "Instead of a neatly glued floor, swept by the bees with the fanning of their wings, there is a floor " +
    "littered with bits of wax, excrement, dying bees scarcely moving their legs, and dead ones that have not " +
    "been cleared away. The beekeeper opens the upper part of the hive and examines the super. Instead of " +
    "serried rows of bees sealing up every gap in the combs and keeping the brood warm, he sees the skillful " +
    "complex structures of the combs, but no longer in their former state of purity.",
  "All is neglected and foul. Black robber bees are swiftly and stealthily prowling about the combs, and the " +
    "short home bees, shriveled and listless as if they were old, creep slowly about without trying to hinder " +
    "the robbers, having lost all motive and all sense of life. Drones, bumblebees, wasps, and butterflies " +
    "knock awkwardly against the walls of the hive in their flight. Here and there among the cells containing " +
    "dead brood and honey an angry buzzing can sometimes be heard.",
  "Here and there a couple of bees, by force of habit and custom cleaning out the brood cells, with efforts " +
    "beyond their strength laboriously drag away a dead bee or bumblebee without knowing why they do it. In " +
    "another corner two old bees are languidly fighting, or cleaning themselves, or feeding one another, " +
    "without themselves knowing whether they do it with friendly or hostile intent. In a third place a crowd " +
    "of bees, crushing one another, attack some victim and fight and smother it, and the victim, enfeebled or " +
    "killed, drops from above slowly and lightly as a feather, among the heap of corpses.",
  "The keeper opens the two center partitions to examine the brood cells. In place of the former close dark " +
    "circles formed by thousands of bees sitting back to back and guarding the high mystery of generation, he " +
    "sees hundreds of dull, listless, and sleepy shells of bees. They have almost all died unawares, sitting " +
    "in the sanctuary they had guarded and which is now no more. They reek of decay and death. Only a few of " +
    "them still move, rise, and feebly fly to settle on the enemy's hand, lacking the spirit to die stinging " +
    "him; the rest are dead and fall as lightly as fish scales.",
  "The beekeeper closes the hive, chalks a mark on it, and when he has time tears out its contents and burns " +
    "it clean.",
];

// facts[i] comes after paragraph i. The question asks for one of them.
function example(title, facts, question, value) {
  const document = stretches.map((stretch, i) => (facts[i] ? `${stretch} ${facts[i]}` : stretch)).join("\n\n");
  return { title, document, question, value };
}

export const examples = [
  example("The code of Natasha",
    { 1: "The code of Natasha is 48213.", 3: "The room of Peter is 926.", 5: "The city of Clara is Lisbon.",
      6: "The code of Alice is 70956." },
    "What is the code of Natasha?", "48213"),
  example("The city of David",
    { 0: "The animal of Laura is owl.", 2: "The room of Simon is 305.", 4: "The city of David is Geneva.",
      6: "The city of Nora is Madrid." },
    "What is the city of David?", "Geneva"),
  example("The room of Emma",
    { 0: "The colour of Oscar is green.", 3: "The room of Emma is 184.", 5: "The password of Julie is lantern.",
      6: "The room of Henry is 926." },
    "What is the room of Emma?", "184"),
];
