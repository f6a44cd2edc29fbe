"""Names and frame ranges of LaSOT's test set and of UAV123, as their authors published them."""

from __future__ import annotations

# Class, then the numbers of its videos in the test set of protocol II (280 videos).
_LASOT = """
airplane-1,9,13,15 basketball-1,6,7,11 bear-2,4,6,17 bicycle-2,7,9,18 bird-2,3,15,17 boat-3,4,12,17 book-3,10,11,19
bottle-1,12,14,18 bus-2,5,17,19 car-2,6,9,17 cat-1,3,18,20 cattle-2,7,12,13 spider-14,16,18,20 coin-3,6,7,18
crab-3,6,12,18 surfboard-12,4,5,8 cup-1,4,7,17 deer-4,8,10,14 dog-1,7,15,19 guitar-3,8,10,16 person-1,5,10,12
pig-2,10,13,18 rubicCube-1,6,14,19 swing-10,14,17,20 drone-13,15,2,7 pool-12,15,3,7 rabbit-10,13,17,19
racing-10,15,16,20 robot-1,19,5,8 sepia-13,16,6,8 sheep-3,5,7,9 skateboard-16,19,3,8 tank-14,16,6,9 tiger-12,18,4,6
train-1,11,20,7 truck-16,3,6,7 turtle-16,5,8,9 umbrella-17,19,2,9 yoyo-15,17,19,7 zebra-10,14,16,17
elephant-1,12,16,18 goldfish-3,7,8,10 hat-1,2,5,18 kite-4,6,10,15 motorcycle-1,3,9,18 mouse-1,8,9,17 flag-3,9,5,2
frog-3,4,20,9 gametarget-1,2,7,13 hand-2,3,9,16 helmet-5,11,19,13 licenseplate-6,12,13,15 electricfan-1,10,18,20
chameleon-3,6,11,20 crocodile-3,4,10,14 gecko-1,5,16,19 fox-2,3,5,20 giraffe-2,10,13,15 gorilla-4,6,9,13
hippo-1,7,9,20 horse-1,4,12,15 kangaroo-2,5,11,14 leopard-1,7,16,20 lion-1,5,12,20 lizard-1,3,6,13
microphone-2,6,14,16 monkey-3,4,9,17 shark-2,3,5,6 squirrel-8,11,13,19 volleyball-1,13,18,19
"""
LASOT_NAMES = tuple(f"{entry.split('-')[0]}-{number}"
                    for entry in _LASOT.split() for number in entry.split("-")[1].split(","))

# Videos that have a folder of their own, whole.
_UAV123_WHOLE = """
bike1 bike2 bike3 boat1 boat2 boat3 boat4 boat5 boat6 boat7 boat8 boat9 building1 building2 building3 building4
building5 car2 car3 car4 car5 car7 car9 car10 car11 car12 car13 car14 car15 car17 car18 person1 person3 person6
person9 person10 person11 person13 person15 person16 person18 person20 person21 person22 person23 truck1 truck2 truck3
uav2 uav3 uav4 uav5 uav6 uav7 uav8 wakeboard1 wakeboard2 wakeboard3 wakeboard4 wakeboard5 wakeboard6 wakeboard7
wakeboard8 wakeboard9 wakeboard10 car1_s car2_s car3_s car4_s person1_s person2_s person3_s
"""
# Parts of a longer video: name, and the first and last image in the folder called as what stands before the "_".
_UAV123_PARTS = """
bird1_1:1-253 bird1_2:775-1477 bird1_3:1573-2437 car1_1:1-751 car1_2:751-1627 car1_3:1627-2629 car6_1:1-487
car6_2:487-1807 car6_3:1807-2953 car6_4:2953-3925 car6_5:3925-4861 car8_1:1-1357 car8_2:1357-2575 car16_1:1-415
car16_2:415-1993 group1_1:1-1333 group1_2:1333-2515 group1_3:2515-3925 group1_4:3925-4873 group2_1:1-907
group2_2:907-1771 group2_3:1771-2683 group3_1:1-1567 group3_2:1567-2827 group3_3:2827-4369 group3_4:4369-5527
person2_1:1-1189 person2_2:1189-2623 person4_1:1-1501 person4_2:1501-2743 person5_1:1-877 person5_2:877-2101
person7_1:1-1249 person7_2:1249-2065 person8_1:1-1075 person8_2:1075-1525 person12_1:1-601 person12_2:601-1621
person14_1:1-847 person14_2:847-1813 person14_3:1813-2923 person17_1:1-1501 person17_2:1501-2347 person19_1:1-1243
person19_2:1243-2791 person19_3:2791-4357 truck4_1:1-577 truck4_2:577-1261 uav1_1:1-1555 uav1_2:1555-2377
uav1_3:2473-3469
"""
UAV123_PARTS: dict[str, tuple[int, int]] = {
    name: (int(span.split("-")[0]), int(span.split("-")[1]))
    for name, span in (entry.split(":") for entry in _UAV123_PARTS.split())
}
UAV123_NAMES = tuple(sorted([*_UAV123_WHOLE.split(), *UAV123_PARTS]))
